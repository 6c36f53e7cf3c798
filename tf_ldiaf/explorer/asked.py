"""What may be asked: numbers and arrays from anywhere, checked."""

import typing
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_ldiaf.errors import RequestError

MOST_AT_ONCE = 64  # images or latents
_LARGEST_LATENT = 1000.0  # a prior's draws are within some ten


def whole(name: str, value: typing.Any, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
        RequestError: something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"`{name}` must be a whole number from {low} to {high}. Received: {_brief(value)}.")
    return value


def seed(name: str, value: typing.Any) -> tf.Tensor:
    """A seed, as a SavedModel takes it; errors as of `whole`."""
    return tf.constant(whole(name, value, 0, 2**31 - 1), tf.int32)


def latents(name: str, value: typing.Any, shape: Sequence[int | None]) -> tf.Tensor:
    """Finite numbers of a shape, in which None is 1 to 64.

    Raises:
        RequestError: something else.
    """
    found = _array(value)
    if not (_fits(found, shape) and found.dtype.kind in "iuf" and (np.abs(found) <= _LARGEST_LATENT).all()):
        wanted = f"numbers of shape {_shown(shape)} from {-_LARGEST_LATENT:g} to {_LARGEST_LATENT:g}"
        raise RequestError(f"`{name}` must be {wanted}. Received: {_described(found)}.")
    return tf.constant(found, tf.float32)


def images(name: str, value: typing.Any, shape: Sequence[int | None], num_values: int) -> np.ndarray:
    """Pixels of a shape, in which None is 1 to 64: whole numbers from 0 to `num_values` - 1, as float32.

    Raises:
        RequestError: something else.
    """
    found = _array(value)
    if not (_fits(found, shape) and found.dtype.kind in "iufb" and np.isin(found, range(num_values)).all()):
        kind = "0 and 1" if num_values == 2 else f"whole numbers from 0 to {num_values - 1}"
        raise RequestError(f"`{name}` must be {kind} of shape {_shown(shape)}. Received: {_described(found)}.")
    return found.astype("float32")


def switches(name: str, value: typing.Any, shape: Sequence[int | None]) -> tf.Tensor:
    """True and false of a shape.

    Raises:
        RequestError: something else.
    """
    found = _array(value)
    if not (_fits(found, shape) and found.dtype.kind == "b"):
        raise RequestError(f"`{name}` must be true and false of shape {_shown(shape)}. Received: {_described(found)}.")
    return tf.constant(found)


def _array(value):
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # lists of several lengths
        return np.asarray(None)


def _fits(found, shape):
    sides = zip(found.shape, shape, strict=False)
    return found.ndim == len(shape) and all(
        1 <= side <= MOST_AT_ONCE if wanted is None else side == wanted for side, wanted in sides
    )


def _shown(shape):
    return f"[{', '.join(f'1 to {MOST_AT_ONCE}' if side is None else str(side) for side in shape)}]"


def _described(found):
    if found.dtype.kind not in "iufb":
        return "something else"
    kind = "true and false" if found.dtype.kind == "b" else "numbers"
    extremes = f" from {found.min():g} to {found.max():g}" if found.size and kind == "numbers" else ""
    return f"{kind} of shape {list(found.shape)}{extremes}"


def _brief(value):
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
