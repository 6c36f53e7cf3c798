"""The networks: encoder, decoder, and the per-node networks that give Gaussian parameters."""

import math
import typing

import keras
import tensorflow as tf

from tf_ldiaf.layers.stacked import StackedDense, dense_network, elu
from tf_ldiaf.probability.gaussians import positive

# A cell of the grid on which convolutions work is a square of so many pixels a side.
CELL = 4


def make_encoder(units, channels, image_shape):
    """Features [B, units[-1]] of images [B, H * W]: 3 x 3 convolutions if there are `channels`, then dense ELU layers.

    Args:
        units: widths of the dense layers.
        channels: of the convolutions on a grid of cells of 4 x 4 pixels, from the last to the first.
        image_shape: (H, W); any shape without channels.

    Raises:
        ValueError: with channels, H or W is no multiple of 4.
    """
    layers: list[typing.Any] = []
    if channels:
        layers = [PixelsToCells(_grid(image_shape))]
        layers += [_with_elu(Convolution, num, f"convolution_{i}") for i, num in enumerate(reversed(channels))]
        layers += [keras.layers.Flatten()]
    layers += [_with_elu(keras.layers.Dense, width, f"dense_{i}") for i, width in enumerate(units)]
    return keras.Sequential(layers, name="encoder")


def make_decoder(units, channels, image_shape):
    """One number for each pixel, [B, H * W], of [B, inputs]: dense ELU layers, then 3 x 3 convolutions if any.

    With `channels`, the dense layers end in `channels[0]` numbers for each cell of 4 x 4 pixels; a convolution to each
    of the further channels follows, and one to the pixels of a cell. Otherwise the last layer is dense.

    Args, raises: as for `make_encoder`.
    """
    layers: list[typing.Any] = [_with_elu(keras.layers.Dense, width, f"dense_{i}") for i, width in enumerate(units)]
    if channels:
        rows, columns = _grid(image_shape)
        layers += [_with_elu(keras.layers.Dense, rows * columns * channels[0], "grid")]
        layers += [keras.layers.Reshape((rows, columns, channels[0]))]
        layers += [_with_elu(Convolution, num, f"convolution_{i}") for i, num in enumerate(channels[1:])]
        layers += [Convolution(CELL**2, name="output"), CellsToPixels()]
    else:
        layers += [keras.layers.Dense(math.prod(image_shape), name="output")]
    return keras.Sequential(layers, name="decoder")


def _with_elu(layer, units, name):
    # He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
    return layer(units, activation=elu, kernel_initializer="he_normal", name=name)


def _grid(image_shape):
    """(rows, columns) of cells."""
    if len(image_shape) != 2 or any(side % CELL for side in image_shape):
        raise ValueError(
            f"channels need images whose height and width are multiples of {CELL}. Received: {image_shape}."
        )
    return tuple(side // CELL for side in image_shape)


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


class PixelsToCells(keras.layers.Layer):
    """[B, H * W] to a grid of cells, [B, H / 4, W / 4, 16]."""

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns = grid

    def call(self, inputs):
        pixels = tf.reshape(inputs, [-1, CELL * self.rows, CELL * self.columns, 1])
        return tf.nn.space_to_depth(pixels, CELL)


class CellsToPixels(keras.layers.Layer):
    """The inverse: [B, H / 4, W / 4, 16] to [B, H * W]."""

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
        return GaussianParameters(loc, positive(raw_scale), elu(context))
