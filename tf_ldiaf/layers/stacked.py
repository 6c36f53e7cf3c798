"""What networks and flows are made of: activations, and small dense networks whose weights are stacked by node."""

import typing

import keras
import tensorflow as tf


@tf.custom_gradient
def elu(x) -> typing.Any:
    """ELU. In XLA on a CPU tf.nn.elu, with its expm1, takes four times as long; the two differ by 1e-7 at most.

    Its derivative is written with its value: one array to keep for the backward pass in place of four.
    """
    y = tf.where(x > 0.0, x, tf.exp(tf.minimum(x, 0.0)) - 1.0)
    return y, lambda upstream: upstream * (1.0 + tf.minimum(y, 0.0))


@tf.custom_gradient
def softplus(x) -> typing.Any:
    """log(1 + exp(x)), for any x. Twice as fast as tf.nn.softplus in XLA on a CPU; the two differ by 5e-7 at most.

    max(x, 0) + log(1 + t), t = exp(-|x|), from the series log(1 + t) = 2 artanh(u), u = t / (2 + t) <= 1/3.
    """
    tail = tf.exp(-tf.abs(x))
    u = tail / (2.0 + tail)
    series = 0.0
    for power in (13, 11, 9, 7, 5, 3, 1):
        series = series * (u * u) + 1.0 / power
    return tf.maximum(x, 0.0) + 2.0 * u * series, lambda upstream: upstream * tf.sigmoid(x)


@tf.custom_gradient
def at(stack, n) -> typing.Any:
    """stack[n]. In a loop TensorFlow keeps all that a slice's derivative takes, for every pass; this one takes n."""
    return stack[n], lambda upstream: (_placed(upstream, stack, n), None)


def _placed(slice_n, stack, n):
    """Zeros like `stack`, with `slice_n` at [n]."""
    return tf.raw_ops.StridedSliceGrad(
        shape=tf.shape(stack), begin=[n], end=[n + 1], strides=[1], dy=slice_n, shrink_axis_mask=1
    )


@tf.custom_gradient
def _dense_at(inputs, kernel, bias, n) -> typing.Any:
    """inputs @ kernel[n] + bias[n]; as in `at`, no copy of a kernel is kept for the derivative.

    A bias that all rows share is taken by a product with a one-hot row. XLA on a CPU draws a slice at a loop's index
    into the elementwise operations that use it and reads the index for every element; they cannot be vectorised then,
    and what a step of a flow does between products takes several times as long.
    """
    is_shared = bias.shape[1] == 1
    place = tf.one_hot([n], bias.shape[0])

    def gradient(upstream):
        rows = [tf.reshape(part, [-1, part.shape[-1]]) for part in (inputs, upstream)]
        by_inputs = tf.tensordot(upstream, kernel[n], [[-1], [1]])
        by_kernel = tf.matmul(*rows, transpose_a=True)
        by_row = tf.reduce_sum(tf.reshape(upstream, tf.concat([[-1], tf.shape(bias)[1:]], axis=0)), axis=0)
        by_bias = tf.matmul(place, by_row, transpose_a=True)[:, tf.newaxis] if is_shared else _placed(by_row, bias, n)
        return by_inputs, _placed(by_kernel, kernel, n), by_bias, None

    row = tf.matmul(place, bias[:, 0]) if is_shared else bias[n]
    return tf.tensordot(inputs, kernel[n], 1) + row, gradient


def dense_network(weights, inputs, n=None):
    """ELU networks with a linear last layer.

    Args:
        weights: (kernel, bias) of each layer for N networks, [N, in, out] and [N, 1 or B, out].
        inputs: [N or 1, B, in]; or [..., in] for one network.
        n: index of the one network, or None: all.

    Returns:
        [N, B, out]; or [..., out].
    """
    outputs = inputs
    for i, (kernel, bias) in enumerate(weights):
        outputs = elu(outputs) if i else outputs
        outputs = tf.matmul(outputs, kernel) + bias if n is None else _dense_at(outputs, kernel, bias, n)
    return outputs


class StackedDense(keras.layers.Layer):
    """The kernels and biases of several dense layers of one size, each set in one variable.

    A few large variables in place of many small ones, that a loop over nodes can index: what has to be traced,
    compiled and launched does not grow with the number of nodes.

    Args:
        input_dims: the inputs of each layer. Those of a layer that has fewer than the largest are its last ones; its
            kernel is 0 for the others.
        units: the width of all.
        initializer: called without arguments for the initializer of each kernel.
        use_bias: whether the layers have biases, which start at 0.
    """

    def __init__(self, input_dims, units, initializer, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.input_dims, self.units, self.initializer, self.use_bias = list(input_dims), units, initializer, use_bias

    def build(self, input_shape=None):
        num, width = len(self.input_dims), max(self.input_dims)

        def blocks(shape, dtype):
            kernels = [self.initializer()((rows, self.units), dtype) for rows in self.input_dims]
            return tf.stack([tf.pad(kernel, [[width - kernel.shape[0], 0], [0, 0]]) for kernel in kernels])

        self.kernel = self.add_weight(name="kernel", shape=(num, width, self.units), initializer=blocks)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(num, 1, self.units), initializer="zeros")
        self.built = True

    def weights_of(self, mask=None):
        """(kernel, bias), [num, in, out] and [num, 1, out]; the kernels times `mask` [k, in, out], repeated."""
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        if mask is not None:
            kernel = tf.reshape(tf.reshape(kernel, [-1, *mask.shape]) * tf.constant(mask), kernel.shape)
        return kernel, bias
