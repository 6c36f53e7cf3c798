"""Paths that users give, and whose the files are that lie there."""

import os
import pathlib
import shlex

from tf_ldiaf.errors import FileError

# Every file that a command may write outside a run says this somewhere at its beginning or end.
MARK = "tf_ldiaf"
_SEARCHED = 2**16  # bytes at either end


def as_path(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """The path, with ~ as the user's home.

    Raises:
        FileError: it cannot be one; it speaks of `argument`.
    """
    try:
        if not os.fspath(path):
            raise ValueError("which is empty")
        found = pathlib.Path(path).expanduser()
        found.exists()
        return found
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise FileError(f"`{argument}` must be a path. Received: {path!r} ({error}).") from None


def shown(path: str | os.PathLike) -> str:
    """The path as it may be pasted into a shell."""
    return shlex.quote(os.fspath(path))


def is_ours(path: pathlib.Path) -> bool:
    """Whether this package wrote the file, or the folder as a SavedModel."""
    if path.is_dir():
        return (path / "saved_model.pb").is_file() and is_ours(path / "README.md")
    try:
        with open(path, "rb") as file:
            start = file.read(_SEARCHED)
            file.seek(max(0, path.stat().st_size - _SEARCHED))
            return MARK.encode() in start + file.read()
    except OSError:
        return False


def check_free(path: pathlib.Path, argument: str) -> None:
    """Says if something lies at `path` that this package did not write.

    Raises:
        FileError: so it is.
    """
    if path.is_dir() or (path.exists() and not is_ours(path)):
        raise FileError(
            f"`{argument}` must be a new file, or one that tf_ldiaf wrote. Received: {path}, which is there already."
        )
