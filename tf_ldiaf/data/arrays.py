"""Arrays in memory: how large, and what makes them images."""

import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from tf_ldiaf.errors import DataError

_RANGES = {(0, 1): "0 to 1", (0, 255): "0 to 255", (-1, 1): "-1 to 1"}
_DARKEST_WHITE = 128  # numbers that are no bytes are in 0-255 if one is as large; those of 0-16 are no dark images
_LIGHTEST_BLACK = -0.99  # numbers in -1 to 1 reach it; x - 0.5, or x without its mean, does not
_SMALLEST_PACKED = 32  # bytes in a row of bits: of 16 x 16 pixels


def most_bytes() -> int:
    """How large arrays may be: a quarter of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def check_size(num_bytes: int, path: pathlib.Path | str, flag: str = "`dataset`") -> None:
    """Says if a file holds more than memory should.

    Raises:
        DataError: so it is.
    """
    if num_bytes > most_bytes():
        raise DataError(
            f"{flag} must fit into a quarter of this machine's memory, {most_bytes():,} bytes. "
            f"Received: {path}, which unpacks to {num_bytes:,}."
        )


def as_pictures(
    splits: Mapping[str, np.ndarray],
    flag: str,
    value_range: tuple[float, float] | None = None,
    keep_colour: bool = False,
    image_size: tuple[int, ...] = (),
) -> dict[str, np.ndarray]:
    """Every array as [n, H, W], uint8 in 0-255 or float32 in 0-1; one shape and one dtype for all.

    Colour, [n, H, W, 3], becomes grey, unless `keep_colour`; then grey sets beside it are of colour, too. Values may be
    from 0 to 1, from 0 to 255 or from -1 to 1, of any type of numbers. Which of these, they say themselves, or
    `value_range` does. Rows of H * W numbers are images of `image_size`; without it they are squares, if they can be.

    Raises:
        DataError: arrays that are not images of one kind; it speaks of `flag`.
    """
    pictures = {name: _shaped(name, np.asarray(x), flag, image_size) for name, x in splits.items()}
    if any(x.ndim == 4 for x in pictures.values()):
        pictures = {name: as_coloured(x) for name, x in pictures.items()}
    kinds = {(x.shape[1:], x.dtype.name) for x in pictures.values()}
    if len(kinds) > 1:
        raise DataError(f"{flag} must have one image size and type in all sets. Received: {sorted(kinds)}.")
    ranges = {name: value_range or _range(name, x, flag) for name, x in pictures.items() if len(x)}
    if len(set(ranges.values())) > 1:
        found = sorted(_RANGES[of_one] for of_one in set(ranges.values()))  # pyright: ignore[reportArgumentType]
        raise DataError(f"{flag} must have one range of values in all sets. Received: {' and '.join(found)}.")
    if ranges:
        [of_all] = set(ranges.values())
        pictures = {name: _scaled(name, x, of_all, flag) for name, x in pictures.items()}
    return {name: _grey(x) if x.ndim == 4 and not keep_colour else x for name, x in pictures.items()}


def as_coloured(x: np.ndarray) -> np.ndarray:
    """Images [n, H, W, 3], of others [n, H, W]: a picture of colours may happen to be grey."""
    return x if x.ndim == 4 else np.repeat(x[..., np.newaxis], 3, axis=-1)


def check_images_first(name: str, x: np.ndarray, flag: str) -> None:
    """Says if an array of a file looks like [H, H, n].

    Raises:
        DataError: so it does; it speaks of `flag`.
    """
    if x.ndim == 3 and x.shape[0] == x.shape[1] and x.shape[2] > x.shape[0] > 1:
        raise DataError(
            f"{flag} must have the images along the first axis, [n, H, W]. Received: {name} of {list(x.shape)}; "
            "numpy.moveaxis(x, -1, 0) puts them there, and x[..., None] says that they are there."
        )


def _shaped(name, x, flag, image_size):
    """[n, H, W] or [n, H, W, 3]."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{flag} must be numbers from 0 to 255, 0 to 1 or -1 to 1. Received: {name} of {x.dtype}.")
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim == 2:
        x = _unflattened(name, x, flag, image_size)
    if x.ndim not in (3, 4) or 0 in x.shape[1:] or (x.ndim == 4 and x.shape[-1] != 3):
        raise DataError(
            f"{flag} must hold images [n, H, W], [n, H, W, 3] or [n, H * W]. Received: {name} of {list(x.shape)}."
        )
    return x


def _unflattened(name, x, flag, image_size):
    """Rows of pixels as pictures of `image_size`, or as squares, if they are; else as pictures of one row."""
    width = x.shape[1]
    if image_size and math.prod(image_size) == width:
        return x.reshape(len(x), *image_size)
    if x.dtype == "uint8" and width >= _SMALLEST_PACKED and not side_of_square(width) and side_of_square(8 * width):
        x = np.unpackbits(x, axis=1)  # eight pixels in a byte
    elif width > _SMALLEST_PACKED and not side_of_square(width) and side_of_square(width - 1):
        raise DataError(
            f"{flag} must have rows of pixels alone; x[:, 1:] or x[:, :-1] is without a label. Received: {name} of "
            f"{list(x.shape)}, a picture of {side_of_square(width - 1)} x {side_of_square(width - 1)} and a label."
        )
    side = side_of_square(x.shape[1])
    if image_size and not side:
        raise DataError(
            f"`image_size` must have as many pixels as a row has numbers, {width}, or these be a square. "
            f"Received: {image_size[0]},{image_size[1]}; images of other sizes or colours are given as [n, H, W] or "
            "[n, H, W, 3]."
        )
    return x.reshape(len(x), *((side, side) if side else (1, x.shape[1])))


def side_of_square(num: int) -> int:
    """Of a square of so many pixels; 0 if there is none."""
    side = round(num**0.5)
    return side if side * side == num else 0


def _range(name, x, flag):
    """Which of `_RANGES` the values say that they have."""
    low, high = x.min(), x.max()
    if np.isfinite([low, high]).all():
        if low >= 0 and high <= 1 and (high == 0 or high > _DARKEST_WHITE / 255 or x.dtype.kind != "f"):
            return 0, 1
        if -1 <= low <= _LIGHTEST_BLACK and high <= 1:
            return -1, 1
        if low >= 0 and (2 if x.dtype == "uint8" else _DARKEST_WHITE) <= high <= 255:
            return 0, 255
    found = f"{low:g} to {high:g}" if np.isfinite(x).all() else "NaN or infinity"
    raise DataError(
        f"{flag} must have values from 0 to 255, 0 to 1 or -1 to 1, or others that `value_range` names. "
        f"Received: {name} with {found}."
    )


def _scaled(name, x, value_range, flag):
    """uint8 in 0-255 where that loses nothing, else float32 in 0-1."""
    low, high = value_range
    if len(x) and not (x.min() >= low and x.max() <= high):
        found = f"{x.min():g} to {x.max():g}" if np.isfinite(x).all() else "NaN or infinity"
        raise DataError(f"{flag} must have values from {low:g} to {high:g}. Received: {name} with {found}.")
    if value_range == (0, 255) and (x.dtype.kind in "ui" or (x == np.round(x)).all()):
        return x.astype("uint8")
    if value_range == (0, 1) and x.dtype.kind in "bui":
        return x.astype("uint8") * np.uint8(255)
    return ((x.astype("float32") - np.float32(low)) / np.float32(high - low)).astype("float32")


def _grey(x):
    """[n, H, W] of [n, H, W, 3], by the weights of ITU-R 601, as Pillow and TensorFlow have them."""
    grey = x.astype("float32") @ np.array([0.299, 0.587, 0.114], "float32")
    return np.round(grey).astype("uint8") if x.dtype == "uint8" else np.clip(grey, 0, 1)
