"""Functions with gradients of their own."""

import functools
import typing
from collections.abc import Callable

import tensorflow as tf


def custom_gradient(function: Callable) -> Callable:
    """As `tf.custom_gradient`, but no graph is kept to the end of the process.

    TensorFlow registers each use of such a function in a graph for ever, and with it the graph. Here a graph calls a
    small function that is traced once for all uses with arguments of the same shapes.

    Args:
        function: of tensors, as `tf.custom_gradient` takes it.
    """
    with_gradient: typing.Any = tf.custom_gradient(function)

    @functools.cache
    def traced(*specs):
        return tf.function(with_gradient, specs, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        if tf.executing_eagerly():
            return with_gradient(*arguments)
        tensors = [tf.convert_to_tensor(argument) for argument in arguments]
        return traced(*(tf.TensorSpec(x.shape, x.dtype) for x in tensors))(*tensors)

    return call
