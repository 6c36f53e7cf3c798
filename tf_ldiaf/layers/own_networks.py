"""What encoders and decoders of one's own take and give."""

import itertools
import math
import operator
import typing
from collections.abc import Sequence

import keras


def input_shape_of(network: keras.Layer, name: str, shape: Sequence[int]) -> tuple[int, ...] | None:
    """What a network was built to take for each image or latent of `shape`; None if that is not known.

    Raises:
        ValueError: it takes other numbers, or has them in another order; it speaks of `name`.
    """
    own = getattr(network, "input_shape", None) if network.built else None
    if not isinstance(own, tuple) or None in own[1:]:
        return None
    if not is_reshaped(own[1:], shape):
        raise ValueError(
            f"{name} must take {math.prod(shape)} numbers for each image, of shape {shape}. "
            f"Received: one that takes {own[1:]}."
        )
    return own[1:]


def shape_given_by(network: keras.Layer, name: str, shape: Sequence[int]) -> tuple[typing.Any, ...]:
    """What a network gives for each input of `shape`.

    Raises:
        ValueError: it gives several things; it speaks of `name`.
    """
    found = network(keras.KerasTensor((None, *shape)))
    if not isinstance(found, keras.KerasTensor):
        raise ValueError(f"{name} must have one output. Received: one that gives {type(found).__name__}s of them.")
    return found.shape[1:]


def is_reshaped(shape: Sequence[int], of: Sequence[int]) -> bool:
    """Whether a shape is the other one with axes joined or split: (560,) or (28, 20, 1) of (28, 20), not (20, 28)."""
    ours, theirs = (list(itertools.accumulate(sides, operator.mul)) for sides in (shape, of))
    return ours[-1] == theirs[-1] and ({*ours} <= {1, *theirs} or {*theirs} <= {1, *ours})


def last_activation(network: typing.Any) -> str:
    """What a network ends with, by Keras's name of it: an activation, or else a layer or an operation."""
    steps = network.layers if isinstance(network, keras.Sequential) else getattr(network, "operations", [])
    for step in reversed(steps):
        if not isinstance(step, keras.layers.Reshape | keras.layers.Flatten | keras.layers.Permute):
            return last_activation(step)
    activation = getattr(network, "activation", None)
    return getattr(activation, "__name__", type(network).__name__.lower())
