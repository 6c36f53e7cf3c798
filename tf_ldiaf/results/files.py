"""Files that are written whole, or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from tf_ldiaf.errors import FileError

SCRATCH = "part-"  # begins the name of a file that is not yet whole


@contextlib.contextmanager
def replacing(path: pathlib.Path, keep_as: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A scratch file that takes the place of `path` if the block ends well, and is gone if not.

    What was at `path` goes to `keep_as`, if that is given.

    Raises:
        FileError: the folder cannot be written.
    """
    scratch = path.with_name(SCRATCH + path.name)
    try:
        path.parent.mkdir(exist_ok=True)
        yield scratch
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(scratch, path)
    except OSError as error:
        raise FileError(f"{path.parent} must be a folder that can be written. Received: {error}.") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """The file is the old one or the new one, never half of it; errors as of `replacing`."""
    with replacing(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
