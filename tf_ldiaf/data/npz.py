"""Images in the arrays of an .npz file."""

import contextlib
import functools
import pathlib
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from tf_ldiaf.data import arrays
from tf_ldiaf.errors import ConfigError

_NAMES = {f"{prefix}{name}": name for prefix in ("", "x_") for name in ("train", "valid", "test")}
_UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def open_splits(path: pathlib.Path) -> dict[str, Callable[[], np.ndarray]]:
    """The sets of a file with arrays train, valid, test or x_train, x_valid, x_test, see `sources.open_splits`."""
    with _opened(path, "--dataset") as file:
        found = {name: functools.partial(_read, path, key) for key, name in _NAMES.items() if key in file}
    if "train" not in found:
        raise ConfigError(
            "--dataset must be an .npz file with arrays train, valid, test or x_train, x_valid, x_test. "
            f"Received: {path}, which has no training images."
        )
    return found


def read_first(path: pathlib.Path, flag: str) -> dict[str, np.ndarray]:
    """The first array of a file under its name; of a file without arrays nothing. Errors speak of `flag`.

    Raises:
        ConfigError: the file is missing, unreadable or too large.
    """
    with _opened(path, flag) as file:
        return {name: _array(file, name) for name in file.files[:1]}


def _read(path, name):
    with _opened(path, "--dataset") as file:
        return _array(file, name)


def _array(file, name):
    x = file[name]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is no array")
    return x


@contextlib.contextmanager
def _opened(path, flag):
    """The file, where what goes wrong within the block is one sentence."""
    if not path.is_file():
        raise ConfigError(f"{flag} must be an .npz file that exists. Received: {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > arrays.most_bytes():
                raise ConfigError(
                    f"{flag} must fit into a quarter of this machine's memory, {arrays.most_bytes():,} bytes. "
                    f"Received: {path}, which unpacks to {size:,}."
                )
            yield file
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise ConfigError(f"{flag} must be a readable .npz file of numbers. Received: {path} ({error}).") from None
