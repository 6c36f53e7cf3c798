"""The networks: encoder, decoder, and the per-node networks that give Gaussian parameters."""

import typing

import keras
import tensorflow as tf

from tf_ldiaf.layers import StackedDense, dense_network, elu, softplus

# softplus(_SCALE_OFFSET) = 1: a network of small outputs starts at unit scale.
_SCALE_OFFSET = 0.5413248546129181
_MIN_SCALE = 1e-3


def mlp(units, name, output_dim=None):
    """A dense ELU network: hidden widths `units`, then a linear layer of `output_dim` unless that is None."""
    # He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
    layers = [
        keras.layers.Dense(width, activation=elu, kernel_initializer="he_normal", name=f"dense_{i}")
        for i, width in enumerate(units)
    ]
    if output_dim is not None:
        layers.append(keras.layers.Dense(output_dim, name="output"))
    return keras.Sequential(layers, name=name)


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
