"""Small dense networks whose weights are stacked by node."""

import typing
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.probability.activations import elu


def dense_network(weights, inputs: tf.Tensor, n: tf.Tensor | int | None = None) -> tf.Tensor:
    """ELU networks with a linear last layer.

    Args:
        weights: (kernel, bias) of each layer for N networks, [N, in, out] and [N, 1 or B, out].
        inputs: [N or 1, B, in]; or [..., B, in] for one network.
        n: index of the one network, or None: all.

    Returns:
        [N, B, out]; or [..., B, out].
    """
    outputs = inputs
    for i, (kernel, bias) in enumerate(weights):
        outputs = elu(outputs) if i else outputs
        outputs = tf.matmul(outputs, kernel) + bias if n is None else _one_layer(outputs, kernel, bias, n)
    return outputs


def _one_layer(inputs, kernel, bias, n):
    """inputs [..., B, in] times the kernel [in, out] at n, as one product of two matrices, and the bias at n."""
    rows = tf.matmul(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernel[n])
    shape = tf.concat([tf.shape(inputs)[:-1], [kernel.shape[-1]]], axis=0)
    if bias.shape[1] != 1:
        return tf.reshape(rows, shape) + bias[n]
    # Not after the reshape: TensorFlow's graph optimizer takes that for a bias of the product, and drops the reshape.
    return tf.reshape(rows + _shared_at(bias, n), shape)


def _shared_at(bias, n):
    # A bias that all rows share is taken by a product. XLA on a CPU would draw a slice at a loop's index into the
    # elementwise operations that use it, and they could not be vectorised.
    return tf.tensordot(tf.one_hot(n, bias.shape[0]), bias, 1)


@keras.saving.register_keras_serializable("tf_ldiaf")
class StackedDense(Float32Layer):
    """Several dense layers of one width, with the kernels of all in one variable and the biases in another.

    A few large variables in place of many small ones, which a loop over nodes can index: what is traced, compiled and
    launched does not grow with the number of nodes. Called with inputs [num or 1, B, in], it gives [num, B, units].

    Args:
        num: how many layers.
        units: the width of each.
        kernel_initializer: name or configuration of a Keras initializer, which is made anew for each kernel; or one
            whose seed is a `SeedGenerator`, so that it draws anew.
        use_bias: whether the layers have biases, which start at 0.
        input_dims: the number of inputs of each layer, where they differ. A layer with fewer inputs than the largest
            has the last ones; its kernel is 0 for the others.
    """

    def __init__(
        self,
        num: int,
        units: int,
        kernel_initializer: str | dict | keras.initializers.Initializer = "glorot_uniform",
        use_bias: bool = True,
        input_dims: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num, self.units, self.use_bias, self.input_dims = num, units, use_bias, input_dims
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape) -> None:
        width = input_shape[-1]
        of_each = self.input_dims or [width] * self.num

        def blocks(shape, dtype):
            draws: typing.Any = [keras.initializers.get(self.kernel_initializer) for _ in of_each]
            kernels = [draw((rows, self.units), dtype) for draw, rows in zip(draws, of_each, strict=True)]
            return tf.stack([tf.pad(kernel, [[width - kernel.shape[0], 0], [0, 0]]) for kernel in kernels])

        self.kernel = self.add_weight(name="kernel", shape=(self.num, width, self.units), initializer=blocks)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.num, 1, self.units), initializer="zeros")
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel, bias = self.weights_of()
        return tf.matmul(inputs, kernel) + bias

    def weights_of(self, mask: np.ndarray | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """(kernel, bias), [num, in, out] and [num, 1, out]; the kernels times `mask` [k, in, out], repeated."""
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else tf.zeros([self.num, 1, self.units])
        if mask is not None:
            kernel = tf.reshape(tf.reshape(kernel, [-1, *mask.shape]) * tf.constant(mask), kernel.shape)
        return kernel, bias
