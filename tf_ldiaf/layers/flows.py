"""Eq. iaf: masks, and the chains of inverse autoregressive steps of all nodes."""

import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.layers.stacked import StackedDense, dense_network, softplus


def autoregressive_masks(node_dim, hidden_units, reverse=False):
    """0/1 masks that make a dense network autoregressive: output d sees inputs before d only.

    Every unit has a degree; a hidden unit sees units of at most its degree, an output unit
    those of strictly smaller degree.

    Args:
        node_dim: D, inputs, and outputs.
        hidden_units: hidden widths.
        reverse: whether "before" means a larger index.

    Returns:
        masks: one [inputs, outputs] array for each layer, the output layer last.

    Source: Germain et al. 2015, MADE, arXiv 1502.03509, Eq. 8-9.
    """
    order = np.arange(1, node_dim + 1)
    if reverse:
        order = order[::-1]
    # Hidden degrees 0 .. D-1, spread evenly: units of degree 0 see no input, and bring the context to the first output.
    degrees = [order] + [np.arange(units) * node_dim // units for units in hidden_units]
    hidden = [below[:, None] <= above[None, :] for below, above in itertools.pairwise(degrees)]
    return [mask.astype("float32") for mask in [*hidden, degrees[-1][:, None] < order[None, :]]]


class InverseAutoregressiveFlows(keras.layers.Layer):
    """The chain of T steps that follows each node's Gaussian draw z_0.

        Eq. iaf: z_t = s_t z_{t-1} + (1 - s_t) m_t, with s_t = sigmoid(gate_logit + 2), for t = 1 .. T
        Eq. density: log q(z_T) = log N(z_0; loc, scale) - sum_t sum_d log s_t,d

    (m_t, gate_logit) = net_t(z_{t-1}, h): a dense network whose masks let output d depend on z before d only,
    and on all of the context h, which enters the first layer. The order of the dimensions is reversed between steps.

    Args:
        num_nodes: N.
        node_dim: D.
        num_steps: T.
        units: hidden widths of each step's masked network.
        context_dim: H.

    Source: Kingma et al. 2016, arXiv 1606.04934, Eq. 10-14 and Algorithm 1; Germain et al. 2015, arXiv 1502.03509.
    """

    def __init__(self, num_nodes, node_dim, num_steps, units, context_dim, **kwargs):
        super().__init__(**kwargs)
        self.num_steps, num = num_steps, num_nodes * num_steps
        steps = [autoregressive_masks(node_dim, units, reverse=t % 2 == 1) for t in range(num_steps)]
        *hidden, last = [np.stack(masks) for masks in zip(*steps, strict=True)]  # [T, in, out]
        self.masks = [*hidden, np.concatenate([last, last], axis=-1)]  # m and gate_logit
        widths = [node_dim, *units, 2 * node_dim]
        # Near the identity at the start: the last layer's outputs are small.
        scales = [1.0] * len(units) + [0.01]
        self.stack = [
            StackedDense([below] * num, width, _uniform(scale), name=f"dense_{i}")
            for i, (below, width, scale) in enumerate(zip(widths[:-1], widths[1:], scales, strict=True))
        ]
        self.context = StackedDense([context_dim] * num, units[0], _uniform(1.0), use_bias=False, name="context")

    def build(self, input_shape=None):
        for layer in [*self.stack, self.context]:
            layer.build()
        self.built = True

    def of_one(self, contexts):
        """A function of a node's index to its chain: T functions from z_{t-1} to (z_t, log s_t), see `run_chain`.

        Args:
            contexts: h of each node, [N, B, H].
        """
        (kernel, bias), *rest = [layer.weights_of(mask) for layer, mask in zip(self.stack, self.masks, strict=True)]
        repeated = tf.repeat(contexts, self.num_steps, axis=0)
        weights = [(kernel, bias + tf.matmul(repeated, tf.convert_to_tensor(self.context.kernel))), *rest]
        return lambda n: [functools.partial(_step, weights, n * self.num_steps + t) for t in range(self.num_steps)]


def _uniform(scale):
    return functools.partial(keras.initializers.VarianceScaling, scale, "fan_avg", "uniform")


def _step(weights, i, z):
    """Step i of all steps of all nodes: z_t and log s_t, both [..., B, D]."""
    outputs = dense_network(weights, z, i)
    shift, gate_logit = tf.split(outputs, 2, axis=-1)
    log_s = -softplus(-gate_logit - 2.0)
    s = tf.exp(log_s)
    return shift + s * (z - shift), log_s


def run_chain(steps, z):
    """z_T and sum_t log s_t, both [..., B, D], of one node's chain and z_0 [..., B, D].

    The sum of the latter over D is log |det dz_T/dz_0|.
    """
    log_s = tf.zeros_like(z)
    for step in steps:
        z, log_s_t = step(z)
        log_s += log_s_t
    return z, log_s
