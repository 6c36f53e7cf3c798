"""The number type of every layer here: float32, because likelihoods need all of its digits."""

import contextlib
from collections.abc import Iterator

import keras


class Float32Layer(keras.layers.Layer):
    """A layer that computes in float32, whatever Keras's global policy is.

    Raises:
        ValueError: another dtype is asked for.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if self.dtype_policy.name != "float32":
            raise ValueError(f"dtype must be float32. Received: {self.dtype_policy.name}.")


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Keras's own layers that are made within the block compute in float32, too."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
