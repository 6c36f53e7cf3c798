"""Images in a folder of PNG files."""

import functools
import pathlib
import warnings
import zlib

import numpy as np

from tf_ldiaf.data.splits import Source, by_set
from tf_ldiaf.errors import DataError


def open_splits(path: pathlib.Path) -> dict[str, Source]:
    """The sets in folders such as train, val, test, see `splits.set_named`. Without them, all images are train."""
    try:
        folders = sorted(file.name for file in path.iterdir() if file.is_dir() and not file.name.startswith("."))
    except OSError as error:
        raise DataError(f"`dataset` must be a folder that can be read. Received: {path} ({error.strerror}).") from None
    parts = by_set(folders, str(path))
    if parts and "train" not in parts:
        raise DataError(f"`dataset` must have a folder train beside {' and '.join(parts.values())}. Received: {path}.")
    others = [name for name in folders if parts and name not in parts.values() and _pictures(path / name)]
    if others:
        raise DataError(
            f"`dataset` must have folders named like train, valid and test only. Received: {path}, which has "
            f"{others[0]} beside {' and '.join(parts.values())}."
        )
    loose = [file.name for file in sorted(path.iterdir()) if parts and file.suffix.lower() == ".png"]
    if loose:
        raise DataError(
            f"`dataset` must have its pictures in {' and '.join(parts.values())} only. Received: {path}, which has "
            f"{loose[0]} beside them."
        )
    found = {split: path / name for split, name in parts.items()} or {"train": path}
    return {
        split: Source(functools.partial(_read, part), functools.partial(_checksum, part))
        for split, part in found.items()
    }


def _pictures(path):
    return sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")


def _checksum(path):
    checksum = 0
    for file in _pictures(path):
        checksum = zlib.crc32(file.read_bytes(), zlib.crc32(str(file.relative_to(path)).encode(), checksum))
    return checksum


def _read(path):
    from PIL import Image, UnidentifiedImageError

    files = _pictures(path)
    if not files:
        raise DataError(f"`dataset` must be a folder with PNG images. Received: {path}, which holds none.")
    unreadable = (OSError, UnidentifiedImageError, SyntaxError, ValueError)
    unreadable += (Image.DecompressionBombError, Image.DecompressionBombWarning)
    pictures = []
    for file in files:
        try:
            bombs = warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)
            with bombs, Image.open(file) as picture:
                mode = picture.mode
                pixels = np.asarray(picture.convert("L"))
        except unreadable as error:
            raise DataError(f"`dataset` must hold readable PNG images. Received: {file} ({error}).") from None
        if mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise DataError(f"`dataset` must hold PNG images of 8 bits. Received: {file} of mode {mode}.")
        if pictures and pixels.shape != pictures[0].shape:
            raise DataError(
                f"`dataset` must hold images of one size, {pictures[0].shape} like the first. "
                f"Received: {file} of {pixels.shape}."
            )
        pictures.append(pixels)
    return np.stack(pictures)
