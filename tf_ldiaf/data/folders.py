"""Images in a folder of PNG files."""

import functools
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from tf_ldiaf.errors import ConfigError


def open_splits(path: pathlib.Path) -> dict[str, Callable[[], np.ndarray]]:
    """The sets in folders train, valid, test, see `sources.open_splits`; without them, all images are train."""
    parts = {name: path / name for name in ("train", "valid", "test") if (path / name).is_dir()}
    if parts and "train" not in parts:
        raise ConfigError(f"--dataset must have a folder train beside {' and '.join(parts)}. Received: {path}.")
    return {name: functools.partial(_read, part) for name, part in (parts or {"train": path}).items()}


def _read(path):
    from PIL import Image, UnidentifiedImageError

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise ConfigError(f"--dataset must be a folder with PNG images. Received: {path}, which holds none.")
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
            raise ConfigError(f"--dataset must hold readable PNG images. Received: {file} ({error}).") from None
        if mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise ConfigError(f"--dataset must hold PNG images of 8 bits. Received: {file} of mode {mode}.")
        if pictures and pixels.shape != pictures[0].shape:
            raise ConfigError(
                f"--dataset must hold images of one size, {pictures[0].shape} like the first. "
                f"Received: {file} of {pixels.shape}."
            )
        pictures.append(pixels)
    return np.stack(pictures)
