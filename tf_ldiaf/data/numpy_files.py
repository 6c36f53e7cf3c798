"""Images in the arrays of an .npz file, or in an .npy file."""

import contextlib
import pathlib
import zipfile
import zlib

import numpy as np

from tf_ldiaf.data import arrays
from tf_ldiaf.errors import DataError

_UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_npz(path: pathlib.Path) -> bool:
    """Whether a zip archive holds arrays, and nothing else."""
    with contextlib.suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())
    return True  # so that its reader says what is wrong


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...] | None]:
    """The shape of each array, under its name; None of one that needs pickle. An .npy file's only array is "".

    Raises:
        DataError: the file cannot be read, or is too large.
    """
    with _opened(path, "`dataset`") as file:
        if isinstance(file, np.ndarray):
            return {"": file.shape}
        return {name: _shape(file, name) for name in file.files if "/" not in name}


def _shape(file, name):
    try:
        with file.zip.open(f"{name}.npy") as stream:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        return None if dtype.hasobject else shape
    except (*_UNREADABLE, KeyError):
        return None  # its reader says what is wrong


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """One of the arrays; errors as of `shapes`."""
    with _opened(path, "`dataset`") as file:
        return _array(file, name)


def read_first(path: pathlib.Path, flag: str) -> dict[str, np.ndarray]:
    """The first array of a file under its name; of a file without arrays nothing. Errors speak of `flag`."""
    with _opened(path, flag) as file:
        return {"": np.array(file)} if isinstance(file, np.ndarray) else {n: _array(file, n) for n in file.files[:1]}


def checksum(path: pathlib.Path, name: str) -> int:
    """Of one of the arrays."""
    with _opened(path, "`dataset`") as file:
        if isinstance(file, np.ndarray):
            return zlib.crc32(file.tobytes())
        return {member.filename: member.CRC for member in file.zip.infolist()}.get(f"{name}.npy", 0)


def _array(file, name):
    x = np.array(file) if isinstance(file, np.ndarray) else file[name]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is no array")
    return x


@contextlib.contextmanager
def _opened(path, flag):
    """The file, where what goes wrong within the block is one sentence."""
    if not path.is_file():
        raise DataError(f"{flag} must be a file that exists. Received: {path}.")
    try:
        file = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(file, np.ndarray):
            arrays.check_size(file.nbytes, path, flag)
            yield file
            return
        with file:
            arrays.check_size(sum(member.file_size for member in file.zip.infolist()), path, flag)
            yield file
    except DataError:
        raise
    except _UNREADABLE as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{flag} must be arrays of numbers, and no pickled objects, which may run any program when read. "
                f"Received: {path}. If you trust it, convert it: x = numpy.load({path.name!r}, None, True), where "
                "True allows them; then numpy.savez('images.npz', train=numpy.stack(list(x)))."
            ) from None
        raise DataError(
            f"{flag} must be a readable .npz or .npy file of numbers. Received: {path} ({error})."
        ) from None
