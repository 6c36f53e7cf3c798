"""What a user hands to a model: images in their several forms, labels, and the settings of `fit`."""

import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.data import binarization
from tf_ldiaf.errors import DataError

# Images are checked so many at a time: the check's arrays stay small.
_CHECKED_AT_ONCE = 10_000


def images_of(x) -> typing.Any:
    """x, or the images of a batch of named parts; tensors and tables that are at hand become arrays.

    Raises:
        DataError: x has no images, or more than one array, or images with a mask.
    """
    if isinstance(x, dict):
        if "image" not in x:
            raise DataError(f'`x` must be images, or have them as its part "image". Received: parts {sorted(x)}.')
        x = x["image"]
    if isinstance(x, list | tuple):
        if len(x) != 1:
            raise DataError(
                "`x` must be one array of images, and labels another argument; `np.stack` makes one of single images. "
                f"Received: a {type(x).__name__} of {len(x)}."
            )
        [x] = x
    if isinstance(x, np.ma.MaskedArray):
        raise DataError("`x` must be images without a mask, which would be ignored. Received: a MaskedArray.")
    is_at_hand = hasattr(x, "numpy") if tf.is_tensor(x) else hasattr(x, "__array__")
    return np.asarray(x) if is_at_hand else x


def shape_of(x) -> tf.TensorShape | None:
    """The shape of an array, or of a data set's batches of images; None if it is not known before they are read."""
    if isinstance(x, np.ndarray):
        return tf.TensorShape(x.shape)
    if isinstance(x, tf.data.Dataset):
        spec = images_of(keras.utils.unpack_x_y_sample_weight(x.element_spec)[0])
        return spec.shape if isinstance(spec, tf.TensorSpec) else None
    return None


def check_batches(shape: tf.TensorShape) -> None:
    """Says if no model can be built for a data set's batches of this shape.

    Raises:
        DataError: the size of an image is not known, or each element is one image.
    """
    if not shape.rank or None in shape[1:]:
        raise DataError(
            "`x` must have images of a size that is known, as `tf.ensure_shape` says it; or `model.build` must "
            f"say it before. Received: batches of shape {shape}."
        )
    if None not in shape and is_one_image(shape):
        raise DataError(
            f"`x` must have batches of images: `x.batch(128)`. Received: elements of shape {shape}. If they are "
            "batches, call `model.build` with their shape first."
        )


def is_one_image(shape: tf.TensorShape) -> bool:
    """Whether an element that should be a batch looks like one image: [H * W], [H, W], or [H, W, C] of few channels."""
    sides = tuple(shape)
    return len(sides) <= 2 or (len(sides) == 3 and sides[2] in (1, 3, 4) and (sides[1] or 0) > 4)


def check_images(x: np.ndarray, pixels: binarization.Pixels) -> None:
    """Says if x is no array of images whose pixels are as `pixels` says.

    Raises:
        DataError: it is not.
    """
    if x.ndim < 2 and len(x.reshape(-1)):
        raise DataError(f"`x` must be images, [n, H, W] or [n, H, W, C]. Received: an array of shape {x.shape}.")
    if x.dtype.kind in "OSUMmc":
        raise DataError(f"`x` must be numbers. Received: an array of {x.dtype}.")
    if not x.ndim or not len(x):
        raise DataError(f"`x` must have at least one image. Received: an array of shape {x.shape}.")
    for start in range(0, len(x), _CHECKED_AT_ONCE):
        part = x[start : start + _CHECKED_AT_ONCE]
        impossible = binarization.impossible(part, pixels)
        if impossible.any():
            first = start + int(np.argmax(impossible.reshape(len(part), -1).any(axis=1)))
            found = part[impossible].flat[0]
            raise binarization.impossible_pixel(pixels, f"{found} in image {first}")
    if pixels == "grey" and x.dtype == "uint8" and x.max() == 1:
        raise binarization.faint(pixels)


def check_light(x: np.ndarray, pixels: binarization.Pixels) -> None:
    """Says if images for `fit` are black, or nearly: probably they are scaled wrongly.

    Raises:
        DataError: they are uint8 of 0 and 1, where 255 is white. Of others a warning says so.
    """
    if pixels == "eight-bit" and x.dtype == "uint8" and x.max() == 1:
        raise binarization.faint(pixels)
    if x.min() == x.max():
        warnings.warn(f"All pixels of `x` are {x.flat[0]}: there is nothing to learn.", stacklevel=3)
    elif pixels == "grey" and x.dtype.kind == "f" and x.max() < 0.5:
        warnings.warn(f"No pixel of `x` is above {x.max():.3g}, where 1 is white: is it scaled twice?", stacklevel=3)


def check_batch_size(batch_size: int | None) -> None:
    """Raises ValueError if it is neither None nor a whole number from 1 on."""
    if batch_size is not None and not (isinstance(batch_size, int | np.integer) and batch_size >= 1):
        raise ValueError(f"batch_size must be a whole number from 1 on. Received: {batch_size}.")


def check_weights(sample_weight) -> None:
    """Raises ValueError if one of them is NaN or infinite."""
    if sample_weight is not None and not np.isfinite(np.asarray(sample_weight, "float64")).all():
        raise ValueError("sample_weight must be numbers. Received: NaN or infinity.")


def split(x: np.ndarray, validation_split: float) -> tuple[np.ndarray, np.ndarray]:
    """The first images, to train on, and the others, to validate with: a share of `validation_split`.

    Raises:
        ValueError: one of both would be empty.
    """
    num = int(len(x) * (1.0 - validation_split))
    if not 0 < num < len(x):
        raise ValueError(
            "validation_split must leave an image to train on, and one to validate with. "
            f"Received: {validation_split} of {len(x)} images."
        )
    return x[:num], x[num:]


def labels(x: np.ndarray, y, sample_weight) -> np.ndarray | None:
    """Zeros in place of labels, which are ignored and may be of any type; as many, so that Keras counts them."""
    if y is None:
        return None if sample_weight is None else np.zeros(len(x))  # Keras drops weights without labels
    return np.zeros(len(y))


def with_labels(validation_data) -> typing.Any:
    """Validation data of arrays with the labels of `labels`."""
    if isinstance(validation_data, tuple | list) and len(validation_data) in (2, 3):
        x, y, *weight = validation_data
        return x, labels(x, y, weight or None), *weight
    return validation_data
