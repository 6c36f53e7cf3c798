"""What networks and flows are made of: activations, and small dense networks whose weights are stacked by node."""

import keras
import tensorflow as tf


def elu(x):
    """ELU. In XLA on a CPU tf.nn.elu, with its expm1, takes four times as long; the two differ by 1e-7 at most."""
    return tf.where(x > 0.0, x, tf.exp(tf.minimum(x, 0.0)) - 1.0)


def softplus(x):
    """log(1 + exp(x)), for any x. Faster than tf.nn.softplus with its log1p; the two differ by 1e-7 at most."""
    magnitude = tf.abs(x)
    return 0.5 * (x + magnitude) + tf.math.log(1.0 + tf.exp(-magnitude))


def dense_network(weights, inputs):
    """An ELU network with a linear last layer.

    Args:
        weights: (kernel, bias) of each layer, [in, out] and [out]; or of N networks at once, [N, in, out] and
            [N, 1, out].
        inputs: [..., in]; or [N or 1, B, in].

    Returns:
        [..., out]; or [N, B, out].
    """
    (kernel, bias), *rest = weights
    outputs = _product(inputs, kernel) + bias
    for kernel, bias in rest:
        outputs = _product(elu(outputs), kernel) + bias
    return outputs


def _product(inputs, kernel):
    return tf.matmul(inputs, kernel) if len(kernel.shape) == 3 else tf.tensordot(inputs, kernel, 1)


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
