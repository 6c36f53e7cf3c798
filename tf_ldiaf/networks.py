"""The networks: encoder, decoder, and the per-node networks that give Gaussian parameters."""

import typing

import keras
import tensorflow as tf

from tf_ldiaf.layers import StackedDense, dense_network, elu, softplus

# softplus(_SCALE_OFFSET) = 1: a network of small outputs starts at unit scale.
_SCALE_OFFSET = 0.5413248546129181
_MIN_SCALE = 1e-3
# A cell of the grid on which a decoder's convolutions work is a square of so many pixels a side.
CELL = 4


def mlp(units, name, output_dim=None):
    """A dense ELU network: hidden widths `units`, then a linear layer of `output_dim` unless that is None."""
    layers: list[typing.Any] = [_with_elu(keras.layers.Dense, width, f"dense_{i}") for i, width in enumerate(units)]
    if output_dim is not None:
        layers.append(keras.layers.Dense(output_dim, name="output"))
    return keras.Sequential(layers, name=name)


def picture_mlp(units, channels, image_shape, name):
    """A dense ELU network whose last layers are 3 x 3 convolutions: [B, inputs] to one number per pixel, [B, H * W].

    The dense layers end in `channels[0]` numbers for each cell of 4 x 4 pixels; a convolution to each of the further
    `channels` follows, and one to the pixels of a cell.

    Args:
        units: hidden widths of the dense layers before the grid's.
        channels: at least one.
        image_shape: (H, W).
        name: of the network.

    Raises:
        ValueError: H or W is no multiple of 4.
    """
    if len(image_shape) != 2 or any(side % CELL for side in image_shape):
        raise ValueError(
            f"decoder_channels needs images whose height and width are multiples of {CELL}. Received: {image_shape}."
        )
    rows, columns = (side // CELL for side in image_shape)
    layers: list[typing.Any] = [
        *(_with_elu(keras.layers.Dense, width, f"dense_{i}") for i, width in enumerate(units)),
        _with_elu(keras.layers.Dense, rows * columns * channels[0], "grid"),
        keras.layers.Reshape((rows, columns, channels[0])),
        *(_with_elu(Convolution, width, f"convolution_{i}") for i, width in enumerate(channels[1:])),
        Convolution(CELL**2, name="output"),
        CellsToPixels(),
    ]
    return keras.Sequential(layers, name=name)


def _with_elu(layer, units, name):
    # He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
    return layer(units, activation=elu, kernel_initializer="he_normal", name=name)


class Convolution(keras.layers.Dense):
    """A 3 x 3 convolution, [B, H, W, C] to [B, H, W, units], with zeros beyond the edges.

    One matrix product of all 3 x 3 patches: the convolutions of XLA on a CPU take more than five times as long.
    """

    def build(self, input_shape):
        super().build((*input_shape[:-1], 9 * input_shape[-1]))
        self.input_spec = None

    def call(self, inputs):
        padded = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
        rows, columns = inputs.shape[1:3]
        shifts = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        return super().call(tf.concat(shifts, axis=-1))


class CellsToPixels(keras.layers.Layer):
    """[B, H / 4, W / 4, 16] to [B, H * W]."""

    def call(self, inputs):
        pixels = tf.nn.depth_to_space(inputs, CELL)
        return tf.reshape(pixels, [-1, pixels.shape[1] * pixels.shape[2]])


class GaussianParameters(typing.NamedTuple):
    """What a node's network returns."""

    loc: tf.Tensor  # [..., D]
    scale: tf.Tensor  # [..., D]
    context: tf.Tensor  # [..., H], h of the flow


class GaussianNetworks(keras.layers.Layer):
    """loc, scale (and h) of each of several nodes: (loc, scale, context)_n = MLP_n(inputs_n), with scale > 0.

    Args:
        input_dims: the size of each node's inputs.
        node_dim: D, the size of loc and of scale.
        units: hidden widths.
        context_dim: the size of h for the nodes' flows; 0 for none.
    """

    def __init__(self, input_dims, node_dim, units, context_dim=0, **kwargs):
        super().__init__(**kwargs)
        self.sizes = [node_dim, node_dim, context_dim]
        below = [input_dims, *([width] * len(input_dims) for width in units)]
        initializers = [keras.initializers.HeNormal] * len(units) + [keras.initializers.GlorotUniform]
        self.stack = [
            StackedDense(dims, width, initializer, name=f"dense_{i}")
            for i, (dims, width, initializer) in enumerate(
                zip(below, [*units, sum(self.sizes)], initializers, strict=True)
            )
        ]

    def build(self, input_shape=None):
        for layer in self.stack:
            layer.build()
        self.built = True

    def of_all(self, inputs):
        """`GaussianParameters` of all nodes, [N, B, ...], from inputs [B, inputs] that they share."""
        return self._parameters(self._weights(), inputs[tf.newaxis])

    def of_one(self):
        """A function of a node's index and inputs [..., inputs] to its `GaussianParameters`."""
        weights = self._weights()
        return lambda n, inputs: self._parameters(weights, inputs, n)

    def _weights(self):
        return [layer.weights_of() for layer in self.stack]

    def _parameters(self, weights, inputs, n=None):
        loc, raw_scale, context = tf.split(dense_network(weights, inputs, n), self.sizes, axis=-1)
        return GaussianParameters(loc, softplus(raw_scale + _SCALE_OFFSET) + _MIN_SCALE, elu(context))
