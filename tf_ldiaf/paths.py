"""Paths that users give, and whose the files are that lie there."""

import contextlib
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterator

from tf_ldiaf.errors import FileError

# Every file that a command may write outside a run says so, each kind in its way; see `is_ours`.
MARK = "tf_ldiaf"
_ADDRESS = re.compile(r"\w[\w+.-]*://")
_SAVED_MODEL = {"README.md", "assets", "curves.png", "fingerprint.pb", "graph.json", "graph.png", "samples.png"}
_SAVED_MODEL |= {"saved_model.pb", "variables"}


def as_path(path: str | os.PathLike, argument: str) -> pathlib.Path:
    """The path, with ~ as the user's home.

    Raises:
        FileError: it cannot be one; it speaks of `argument`.
    """
    try:
        if not os.fspath(path):
            raise ValueError("which is empty")
        if _ADDRESS.match(os.fspath(path)):
            raise ValueError("an address, and no path of this machine")
        found = pathlib.Path(path).expanduser()
        found.exists()
        return found
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise FileError(f"`{argument}` must be a path. Received: {path!r} ({error}).") from None


def shown(path: str | os.PathLike) -> str:
    """The path as it may be pasted into a shell."""
    return shlex.quote(os.fspath(path))


def is_ours(path: pathlib.Path) -> bool:
    """Whether this package wrote the file (a picture, arrays or a graph), or all of the folder as a SavedModel."""
    try:
        if path.is_dir():
            names = {file.name for file in path.iterdir()}
            is_saved_model = "saved_model.pb" in names and names <= _SAVED_MODEL
            return is_saved_model and f"made with {MARK}" in (path / "README.md").read_text()
        content = path.read_bytes()
        if path.suffix == ".json":
            return json.loads(content)["graph"]["made_by"] == MARK
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    marks = {".png": b"Software\0" + MARK.encode(), ".dot": f"// {MARK}\n".encode()}
    if path.suffix in marks:
        return marks[path.suffix] in content[:200]
    return path.suffix == ".npz" and content.endswith(MARK.encode())  # the archive's comment


def check_free(path: pathlib.Path, argument: str) -> None:
    """Says if something lies at `path` that this package did not write.

    Raises:
        FileError: so it is.
    """
    if path.is_dir() or (path.exists() and not is_ours(path)):
        raise FileError(
            f"`{argument}` must be a new file, or one that tf_ldiaf wrote. Received: {path}, which is there already."
        )


@contextlib.contextmanager
def as_written(file: pathlib.Path) -> Iterator[None]:
    """Whatever fails in the block was the fault of a file that a run wrote.

    Raises:
        FileError: something failed.
    """
    try:
        yield
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{file} must be what a run wrote. Received: {error!r}.") from None
