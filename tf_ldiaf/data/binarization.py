"""How grey images become binary: --binarization, decided here alone."""

import math
import typing

import numpy as np
import tensorflow as tf

from tf_ldiaf.config import DataSettings
from tf_ldiaf.data.records import Records
from tf_ldiaf.errors import DataError
from tf_ldiaf.probability.noise import uniform

# What is drawn once is the same whatever the run's seed: numbers stay comparable.
_SEEDS = {"valid": 0, "test": 1}
_DRAW_BATCH = 1000


def binarize(images: np.ndarray | Records, settings: DataSettings, split: str) -> typing.Any:
    """The images of a split with pixels of 0 and 1; training images of a dynamic binarisation stay grey, for `draw`.

    Args:
        images: [n, H, W], uint8 in 0-255 or float32 in 0-1; or records of uint8.
        settings: threshold: above one half is 1. dynamic: 1 with a probability of its grey. none: threshold, of what
            must be black and white already.
        split: train, valid or test.

    Returns:
        uint8 array, or records; grey ones as they were.

    Raises:
        DataError: grey images with none; of records it is said where they are read, see `Records.readable`.
    """
    if settings.binarization == "dynamic":
        return images if split == "train" else _drawn_once(images, _SEEDS[split])
    if isinstance(images, Records):
        if settings.binarization == "none":
            images = images.only(lambda x: (x == 0) | (x == 255))
        return images.then(lambda x: tf.cast(x > 127, tf.uint8))
    if settings.binarization == "none" and not ((images == 0) | (images == _white(images))).all():
        raise DataError(
            f"`binarization=none` needs pixels that are all 0 or 1. Received: grey {split} images in "
            f"{settings.dataset}; threshold and dynamic make them binary."
        )
    return threshold(images)


def threshold(images: np.ndarray) -> np.ndarray:
    """1 where a pixel is above one half, 0 elsewhere: uint8; `images` as for `binarize`."""
    return (images > _white(images) / 2).astype("uint8")


def impossible(images, is_grey: bool = False) -> typing.Any:
    """Which pixels are not what a model takes, NaN among them: an array of bool, or a tensor, as `images` are.

    Args:
        images: an array or a tensor.
        is_grey: whether `draw` makes them binary: uint8 in 0-255 or float in 0-1. Otherwise they are 0 and 1.
    """
    if images.dtype == "bool":
        return images & ~images
    if not is_grey:
        return ~((images == 0) | (images == 1))
    return ~((images >= 0) & (images <= (255 if images.dtype == "uint8" else 1)))


def impossible_pixel(is_grey: bool, found: str) -> DataError:
    """What is said of one."""
    wanted = "grey, uint8 in 0-255 or float in 0-1" if is_grey else "0 or 1, such as those of (x > 127) for grey images"
    return DataError(f"`x` must have pixels that are {wanted}. Received: {found}.")


def draw(grey, seed) -> tf.Tensor:
    """A draw of 0 or 1 for each pixel: 1 with a probability of its grey.

    Args:
        grey: [B, ...], uint8 in 0-255, or float in 0-1.
        seed: [2], int32, a stateless seed.

    Returns:
        float32 tensor of that shape.
    """
    num_pixels = math.prod(grey.shape[1:])
    draws = tf.reshape(uniform((1, 1, tf.shape(grey)[0], num_pixels), seed), tf.shape(grey))
    return tf.cast(draws < tf.cast(grey, tf.float32) / _white(grey), tf.float32)


def _drawn_once(grey, seed):
    chunks = [
        draw(tf.constant(grey[i : i + _DRAW_BATCH]), tf.constant([seed, i], tf.int32)).numpy().astype("uint8")
        for i in range(0, len(grey), _DRAW_BATCH)
    ]
    return np.concatenate(chunks)


def _white(images):
    """The value of a white pixel."""
    return 255.0 if images.dtype == "uint8" else 1.0
