"""The files in an archive."""

import pathlib
import tarfile
import zipfile
import zlib

from tf_ldiaf.data import arrays
from tf_ldiaf.errors import DataError


def unpacked(path: pathlib.Path) -> dict[str, bytes]:
    """The content of each file of a .zip or .tar archive, which may be packed by gzip.

    Raises:
        DataError: it cannot be read, or holds more than memory should.
    """
    errors = (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError)
    found, size = {}, 0
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                arrays.check_size(sum(member.file_size for member in archive.infolist()), path)
                members = [member for member in archive.infolist() if not member.is_dir()]
                # Some programs of Windows write its own separator.
                return {member.filename.replace("\\", "/"): archive.read(member) for member in members}
        with tarfile.open(path) as archive:
            for member in archive:
                arrays.check_size(size + member.size, path)
                files = _content(archive, member)
                size += sum(map(len, files.values()))  # a link's own size is 0
                found |= files
    except errors as error:
        raise DataError(f"`dataset` must be an archive that can be read. Received: {path} ({error}).") from None
    return found


def _content(archive, member):
    """What a file of a tar archive has, under its name. A link is followed within the archive alone."""
    try:
        content = archive.extractfile(member)
    except KeyError:  # a link to nothing: it is said where it is read
        return {member.name: b""}
    if content is None and (member.issym() or member.islnk()):
        raise RuntimeError(f"{member.name} is a link to a folder")
    return {member.name: content.read()} if content else {}
