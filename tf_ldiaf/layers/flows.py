"""Autoregressive flows as Keras layers: the masked networks of all steps, and the TFP bijectors over them."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.layers.stacked import StackedDense, dense_network
from tf_ldiaf.probability.iaf import autoregressive_masks, inverse_autoregressive_flow, masked_autoregressive_flow

tfb = tfp.bijectors


class _AutoregressiveFlow(Float32Layer):
    """Dense networks of all steps of all flows, whose masks let output d see the dimensions before d, and all of h."""

    def __init__(
        self,
        node_dim: int,
        context_dim: int,
        num_steps: int = 2,
        units: Sequence[int] = (64, 64),
        num_nodes: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_steps < 1 or not units:
            raise ValueError(
                f"num_steps must be at least 1 and units must name a width. Received: {num_steps} and {tuple(units)}."
            )
        self.node_dim, self.context_dim, self.num_steps = node_dim, context_dim, num_steps
        self.units, self.num_nodes = tuple(units), num_nodes
        steps = [autoregressive_masks(node_dim, units, reverse=t % 2 == 1) for t in range(num_steps)]
        *hidden, last = [np.stack(masks) for masks in zip(*steps, strict=True)]  # [T, in, out]
        self.masks = [*hidden, np.concatenate([last, last], axis=-1)]  # m and gate_logit
        # Near the identity at the start: the last layer's outputs are small.
        scales = [1.0] * len(units) + [0.01]
        num = num_nodes * num_steps
        self.stack = [
            StackedDense(num, width, _uniform(scale), name=f"dense_{i}")
            for i, (width, scale) in enumerate(zip([*units, 2 * node_dim], scales, strict=True))
        ]
        for layer in self.stack:
            setattr(self, layer.name, layer)  # tf.train.Checkpoint does not look into lists
        self.context = StackedDense(num, units[0], _uniform(1.0), use_bias=False, name="context")

    def build(self, *input_shapes) -> None:
        width = self.node_dim
        for layer in self.stack:
            layer.build((None, width))
            width = layer.units
        self.context.build((None, self.context_dim))
        self.built = True

    def call(self, z_0: tf.Tensor, context: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """z_T [..., B, D] and log |det dz_T/dz_0| [..., B] of the first node's flow, from z_0 and h [B, H]."""
        bijector = self.bijector(context)
        return bijector.forward(z_0), bijector.forward_log_det_jacobian(z_0, event_ndims=1)

    def bijector(self, context: tf.Tensor) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
        """The first node's flow as a TFP bijector on [..., B, D], for h [B, H]."""
        raise NotImplementedError

    def _weights(self):
        """(kernel, bias) of each layer, and the kernel of the context; of all flows and steps."""
        if not self.built:
            self.build()
        weights = [layer.weights_of(mask) for layer, mask in zip(self.stack, self.masks, strict=True)]
        return weights, tf.convert_to_tensor(self.context.kernel)

    def _steps(self, network):
        """The networks of a flow's steps, of a function of z and a step's index."""

        def step(t):
            return lambda z: tf.split(network(z, t), 2, axis=-1)

        return [step(t) for t in range(self.num_steps)]


@keras.saving.register_keras_serializable("tf_ldiaf")
class InverseAutoregressiveFlow(_AutoregressiveFlow):
    """Flows of T steps that turn a Gaussian draw z_0 into z_T, given a context h; one flow, or one for each of N nodes.

    (m_t, gate_logit) of Eq. iaf = net_t(z_{t-1}, h): a dense network whose masks let output d see z before d only, and
    all of h, which enters the first layer. The order of the dimensions is reversed between steps.

    The layer is used in either of two ways. `flow.bijector(context)` is a TFP bijector, for a
    `tfd.TransformedDistribution`. `z, log_det = flow(z_0, context)` is its forward pass on tensors.

    Args:
        node_dim: D, the dimensions of z.
        context_dim: H, the width of h.
        num_steps: T.
        units: hidden widths of each step's masked network.
        num_nodes: N, the number of flows.

    Source: Kingma et al. 2016, arXiv 1606.04934; Germain et al. 2015, arXiv 1502.03509.

    Example:

        >>> import tensorflow as tf, tensorflow_probability as tfp
        >>> from tf_ldiaf.layers import InverseAutoregressiveFlow
        >>> flow = InverseAutoregressiveFlow(node_dim=2, context_dim=3, units=(16,))
        >>> base = tfp.distributions.MultivariateNormalDiag(tf.zeros([4, 2]))
        >>> posterior = tfp.distributions.TransformedDistribution(base, flow.bijector(tf.ones([4, 3])))
        >>> posterior.sample(5).shape
        TensorShape([5, 4, 2])
    """

    def bijector(self, context: tf.Tensor) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
        return self.bijectors(tf.repeat(tf.convert_to_tensor(context)[tf.newaxis], self.num_nodes, axis=0))(0)

    def bijectors(self, contexts: tf.Tensor) -> Callable[[tf.Tensor | int], tfp.bijectors.Chain]:  # pyright: ignore[reportInvalidTypeForm]
        """The flow of each node, for the context of each.

        Args:
            contexts: h of each node, [N, B, H].

        Returns:
            a function of a node's index, which may be a tensor, to its flow.
        """
        weights, of_context = self._weights()
        weights = _in_context(weights, of_context, tf.repeat(contexts, self.num_steps, axis=0))

        def of_node(n):
            networks = self._steps(lambda z, t: dense_network(weights, z, n * self.num_steps + t))
            return inverse_autoregressive_flow(networks)

        return of_node


@keras.saving.register_keras_serializable("tf_ldiaf")
class MaskedAutoregressiveFlow(_AutoregressiveFlow):
    """Flows of T steps whose densities take one pass, for priors; one flow, or one for each of N nodes.

    (m_t, gate_logit) of Eq. maf = net_t(u_t, h), with networks as in `InverseAutoregressiveFlow`. A draw takes D passes
    of each network.

    Args: as of `InverseAutoregressiveFlow`.

    Source: Papamakarios et al. 2017, arXiv 1705.07057. As a prior: Chen et al. 2017, arXiv 1611.02731.

    Example:

        >>> import tensorflow as tf, tensorflow_probability as tfp
        >>> from tf_ldiaf.layers import MaskedAutoregressiveFlow
        >>> flow = MaskedAutoregressiveFlow(node_dim=2, context_dim=3, units=(16,))
        >>> base = tfp.distributions.MultivariateNormalDiag(tf.zeros([4, 2]))
        >>> prior = tfp.distributions.TransformedDistribution(base, flow.bijector(tf.ones([4, 3])))
        >>> prior.log_prob(tf.zeros([4, 2])).shape
        TensorShape([4])
    """

    def bijector(self, context: tf.Tensor) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
        return self.bijector_of(0, tf.convert_to_tensor(context))

    def bijector_of(self, n: tf.Tensor | int, context: tf.Tensor) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
        """The flow of the node at index n, which may be a tensor, on [..., B, D], for its h [B, H]."""
        weights, of_context = self._weights()

        def its(weight):
            return tf.reshape(weight, [self.num_nodes, self.num_steps, *weight.shape[1:]])[n]

        weights = [(its(kernel), its(bias)) for kernel, bias in weights]
        weights = _in_context(weights, its(of_context), context[tf.newaxis])
        networks = self._steps(lambda z, t: dense_network([(kernel[t], bias[t]) for kernel, bias in weights], z))
        return masked_autoregressive_flow(networks)

    def bijector_of_all(self, contexts: tf.Tensor) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
        """The flows of all nodes in one bijector on [N, B, D], for their h [N, B, H]."""
        weights, of_context = self._weights()
        steps = [slice(t, None, self.num_steps) for t in range(self.num_steps)]
        steps = [
            _in_context([(kernel[t], bias[t]) for kernel, bias in weights], of_context[t], contexts) for t in steps
        ]
        return masked_autoregressive_flow(self._steps(lambda z, t: dense_network(steps[t], z)))


def _in_context(weights, of_context, context):
    """The weights with the context's part in the first bias."""
    (kernel, bias), *rest = weights
    return [(kernel, bias + tf.matmul(context, of_context)), *rest]


def _uniform(scale):
    return {
        "class_name": "VarianceScaling",
        "config": {"scale": scale, "mode": "fan_avg", "distribution": "uniform"},
    }
