"""Eq. iaf: the masks that make a network autoregressive, and the chain of flow steps as TFP bijectors."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.probability.activations import softplus

tfb = tfp.bijectors

Network = Callable[[tf.Tensor], Sequence[tf.Tensor]]


def autoregressive_masks(node_dim: int, hidden_units: Sequence[int], reverse: bool = False) -> list[np.ndarray]:
    """0/1 masks that make a dense network autoregressive: output d sees inputs before d only.

    Every unit has a degree. A hidden unit sees units of at most its degree, an output unit those of a smaller degree.

    Args:
        node_dim: D, the number of inputs and of outputs.
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


def inverse_autoregressive_flow(networks: Sequence[Network]) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
    """The bijector from z_0 to z_T.

        Eq. iaf: z_t = s_t z_{t-1} + (1 - s_t) m_t, with s_t = sigmoid(gate_logit + 2), for t = 1 .. T

    Args:
        networks: of each step, a function of z_{t-1} [..., D] to (m_t, gate_logit), both [..., D]. Each must be
            autoregressive: output d sees inputs before d only, in an order of the step's own.

    Returns:
        bijector: `forward` takes one pass of each network, `inverse` takes D of them. Its forward log-determinant is
            log |det dz_T/dz_0|.

    Source: Kingma et al. 2016, arXiv 1606.04934, Eq. 10-14 and Algorithm 1.
    """
    return tfb.Chain([_step(network) for network in reversed(networks)], name="iaf")


def _step(network):
    # TFP asks for the value and for the log-determinant at the same z. In a graph the second answer is the first:
    # otherwise the gradient of the network would be computed twice.
    known: list = [None, None]

    def bijector_fn(z):
        if known[0] is z:
            return known[1]
        m, gate_logit = network(z)
        minus_logit = -gate_logit - 2.0  # of 1 - s
        # The inverse of the step's affine map, written without a division by s.
        affine = tfb.Chain([tfb.Shift(tf.sigmoid(minus_logit) * m), tfb.Scale(log_scale=-softplus(minus_logit))])
        bijector = tfb.Invert(affine)
        if not tf.executing_eagerly():  # where a gradient tape may be new
            known[:] = z, bijector
        return bijector

    return tfb.Invert(tfb.MaskedAutoregressiveFlow(bijector_fn=bijector_fn, name="step"))
