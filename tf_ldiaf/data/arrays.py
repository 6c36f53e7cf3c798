"""Arrays in memory: how large, and what makes them images."""

import os

import numpy as np

from tf_ldiaf.errors import DataError


def most_bytes() -> int:
    """How large arrays may be: a quarter of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def as_pictures(splits: dict[str, np.ndarray], flag: str) -> dict[str, np.ndarray]:
    """Every array as [n, H, W], uint8 in 0-255 or float32 in 0-1; one shape and one dtype for all.

    uint8 in 0-1 is made 0-255, if all is so.

    Raises:
        DataError: arrays that are not images of one kind; it speaks of `flag`.
    """
    pictures = {}
    for name, x in splits.items():
        if x.dtype == bool:
            x = x.astype("uint8")
        if x.ndim == 4 and x.shape[-1] == 1:
            x = x[..., 0]
        if x.ndim == 2:  # flat: a square if it is one, else one row of pixels
            side = round(x.shape[1] ** 0.5)
            x = x.reshape(len(x), *((side, side) if side * side == x.shape[1] else (1, x.shape[1])))
        if x.ndim != 3 or 0 in x.shape[1:]:
            raise DataError(f"{flag} must hold images [n, H, W] or [n, H * W]. Received: {name} of {x.shape}.")
        if x.dtype != "uint8" and not np.issubdtype(x.dtype, np.floating):
            raise DataError(f"{flag} must be uint8 in 0-255 or float in 0-1. Received: {name} of {x.dtype}.")
        if x.dtype != "uint8" and not (np.isfinite(x).all() and (x >= 0).all() and (x <= 1).all()):
            found = "NaN or infinity" if not np.isfinite(x).all() else f"{x.min():g} to {x.max():g}"
            raise DataError(f"{flag} must be uint8 in 0-255 or float in 0-1. Received: {name} with {found}.")
        pictures[name] = x if x.dtype == "uint8" else x.astype("float32")
    kinds = {(x.shape[1:], x.dtype.name) for x in pictures.values()}
    if len(kinds) > 1:
        raise DataError(f"{flag} must have one image size and type in all sets. Received: {sorted(kinds)}.")
    # uint8 arrays of 0 and 1 are binary images, not nearly black ones.
    binary = {bool((x <= 1).all()) for x in pictures.values() if x.dtype == "uint8" and len(x)}
    if len(binary) > 1:
        raise DataError(f"{flag} must be 0-255 in all sets or 0-1 in all. Received: both.")
    if True in binary:
        pictures = {name: x * np.uint8(255) for name, x in pictures.items()}
    return pictures
