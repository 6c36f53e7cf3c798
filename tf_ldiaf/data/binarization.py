"""What pixels are to a model: how grey images become binary (--binarization), or stay 0 .. 255. Decided here alone."""

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

# Pixels are 0 and 1; or 8-bit, uint8 in 0-255 or float k / 255; or grey to be made binary by draws.
Pixels = typing.Literal["binary", "eight-bit", "grey"]
_WANTED = {
    "binary": "0 or 1, such as those of (x > 127) for grey images of uint8, and of (x > 0.5) for those in 0-1",
    "eight-bit": "uint8 in 0-255, or float k / 255 for whole numbers k",
    "grey": "grey, uint8 in 0-255 or float in 0-1",
}
_NEAR = 0.1  # 255 x of a float16 x may be so far from a whole number


def binarize(images: np.ndarray | Records, settings: DataSettings, split: str) -> typing.Any:
    """The images of a split as their likelihood has them: pixels of 0 and 1, or of 0 .. 255.

    Training images of a dynamic binarisation stay grey, for `draw`.

    Args:
        images: [n, H, W] or [n, H, W, C], uint8 in 0-255 or float32 in 0-1; or records of uint8.
        settings: threshold: above one half is 1. dynamic: 1 with a probability of its grey. none: threshold, of what
            must be black and white already. With another likelihood than bernoulli nothing becomes binary.
        split: train, valid or test.

    Returns:
        uint8 array, or records; grey ones as they were.

    Raises:
        DataError: grey images with none; of records it is said where they are read, see `Records.readable`.
    """
    if not settings.is_binary:
        return images if isinstance(images, Records) else eight_bit(images)
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


def eight_bit(images: np.ndarray) -> np.ndarray:
    """uint8 in 0-255 of images as for `binarize`; of float the nearest."""
    return images if images.dtype == "uint8" else np.round(255.0 * images).astype("uint8")


def impossible(images, pixels: Pixels = "binary") -> typing.Any:
    """Which pixels are not what a model takes, NaN among them: an array of bool, or a tensor, as `images` are.

    Args:
        images: an array or a tensor.
        pixels: what they must be.
    """
    if images.dtype == "bool":
        return images & ~images
    if pixels == "binary":
        return ~((images == 0) | (images == 1))
    if images.dtype == "uint8":
        return images < 0  # none is
    is_possible = (images >= 0) & (images <= 1)
    if pixels == "eight-bit":
        of_255 = _rounded(images)
        is_possible &= abs(of_255 - 255 * images) < _NEAR
    return ~is_possible


def impossible_pixel(pixels: Pixels, found: str) -> DataError:
    """What is said of one."""
    return DataError(f"`x` must have pixels that are {_WANTED[pixels]}. Received: {found}.")


def faint(pixels: Pixels) -> DataError:
    """What is said of pixels that are taken for grey or for 256 values, and are only 0 and 1 of 255."""
    wanted, other = "uint8 in 0-255 or float in 0-1", ""
    if pixels == "grey":
        wanted, other = "grey for `binarization=dynamic`", ", or set `binarization` to none"
    return DataError(
        f"`x` must be {wanted}, where 255 is white in uint8. Received: uint8 without any above 1; if 1 means white, "
        f"convert it to float{other}."
    )


def values(images, pixels: Pixels) -> tf.Tensor:
    """The whole numbers that a likelihood is asked about: float32, 0 and 1 or 0 .. 255.

    Args:
        images: "binary", or "eight-bit": uint8 in 0-255 or float in 0-1.
        pixels: which of both.
    """
    x = tf.cast(images, tf.float32)
    return x if pixels == "binary" or images.dtype == "uint8" else tf.round(255.0 * x)


def _rounded(images):
    return tf.round(255 * images) if tf.is_tensor(images) else np.round(255 * images)


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
