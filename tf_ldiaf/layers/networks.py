"""The per-node networks: what features or parents say of a node, as a Gaussian."""

import typing
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.layers.stacked import StackedDense, dense_network
from tf_ldiaf.probability.activations import elu
from tf_ldiaf.probability.gaussians import positive


class GaussianParameters(typing.NamedTuple):
    """What a node's network returns."""

    loc: tf.Tensor  # [..., D]
    scale: tf.Tensor  # [..., D], positive
    context: tf.Tensor  # [..., H], h of the node's flow


@keras.saving.register_keras_serializable("tf_ldiaf")
class GaussianNetworks(Float32Layer):
    """(loc, scale, context)_n = MLP_n(inputs_n) for each of several nodes: the top-down or the bottom-up networks.

    Called with inputs [B, inputs] that all nodes share, it gives the `GaussianParameters` of all, [N, B, ...].

    Args:
        num_nodes: how many networks there are.
        node_dim: D, the size of loc and of scale.
        units: hidden widths.
        context_dim: H, the size of the context for the nodes' flows; 0 for none.
        input_dims: the size of each node's inputs where they differ. A node with fewer inputs than the largest has the
            last ones.
    """

    def __init__(
        self,
        num_nodes: int,
        node_dim: int,
        units: Sequence[int] = (64,),
        context_dim: int = 0,
        input_dims: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_nodes, self.node_dim, self.units = num_nodes, node_dim, tuple(units)
        self.context_dim, self.input_dims = context_dim, input_dims if input_dims is None else tuple(input_dims)
        widths = [*self.units, 2 * node_dim + context_dim]
        self.stack = [
            StackedDense(
                num_nodes,
                width,
                "he_normal" if i < len(self.units) else "glorot_uniform",
                input_dims=None if i else self.input_dims,
                name=f"dense_{i}",
            )
            for i, width in enumerate(widths)
        ]
        for layer in self.stack:
            setattr(self, layer.name, layer)  # tf.train.Checkpoint does not look into lists

    def build(self, input_shape) -> None:
        for layer in self.stack:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], layer.units)
        self.built = True

    def call(self, inputs: tf.Tensor) -> GaussianParameters:
        return self._parameters(self._weights(), inputs[tf.newaxis])

    def of_one(self) -> Callable[[tf.Tensor, tf.Tensor], GaussianParameters]:
        """A function of a node's index and its inputs [..., inputs] to its `GaussianParameters`."""
        weights = self._weights()
        return lambda n, inputs: self._parameters(weights, inputs, n)

    def _weights(self):
        return [layer.weights_of() for layer in self.stack]

    def _parameters(self, weights, inputs, n=None):
        sizes = [self.node_dim, self.node_dim, self.context_dim]
        loc, raw_scale, context = tf.split(dense_network(weights, inputs, n), sizes, axis=-1)
        return GaussianParameters(loc, positive(raw_scale), elu(context))
