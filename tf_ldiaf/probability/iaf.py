"""Eq. iaf and Eq. maf: the masks that make a network autoregressive, and chains of flow steps as TFP bijectors."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.probability.activations import softplus

tfb = tfp.bijectors

_MIN_SCALE = 0.1

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
    return tfb.Chain([tfb.Invert(_step(network, _inverse_of_gated)) for network in reversed(networks)], name="iaf")


def masked_autoregressive_flow(networks: Sequence[Network]) -> tfp.bijectors.Chain:  # pyright: ignore[reportInvalidTypeForm]
    """The bijector from u_0 to u_T.

        Eq. maf: u_t = s_t u_{t-1} + (1 - s_t) m_t, with s_t = 0.1 + 0.9 sigmoid(gate_logit + 2), for t = 1 .. T

    Unlike in Eq. iaf the networks see what comes out of a step: (m_t, gate_logit) are of u_t. A density divides by s_t,
    so s_t is at least 0.1: far from the prior's mass the density stays finite.

    Args:
        networks: as of `inverse_autoregressive_flow`, but functions of u_t.

    Returns:
        bijector: `inverse` takes one pass of each network, `forward` takes D of them.

    Source: Papamakarios et al. 2017, arXiv 1705.07057, Eq. 3-5.
    """
    return tfb.Chain([_step(network, _gated) for network in reversed(networks)], name="maf")


def _inverse_of_gated(m, gate_logit):
    minus_logit = -gate_logit - 2.0  # of 1 - s
    # The inverse of the step's affine map, written without a division by s.
    affine = tfb.Chain([tfb.Shift(tf.sigmoid(minus_logit) * m), tfb.Scale(log_scale=-softplus(minus_logit))])
    return tfb.Invert(affine)


def _gated(m, gate_logit):
    s = _MIN_SCALE + (1.0 - _MIN_SCALE) * tf.sigmoid(gate_logit + 2.0)
    return tfb.Chain([tfb.Shift((1.0 - s) * m), tfb.Scale(log_scale=tf.math.log(s))])


def _step(network, make):
    """A step of TFP: its map is `make(m, gate_logit)`, and the network sees what comes out of the step."""
    # TFP asks for the value and for the log-determinant at the same z. In a graph the second answer is the first:
    # otherwise the gradient of the network would be computed twice.
    known: list = [None, None]

    def bijector_fn(z):
        if known[0] is z:
            return known[1]
        bijector = make(*network(z))
        if not tf.executing_eagerly():  # where a gradient tape may be new
            known[:] = z, bijector
        return bijector

    return tfb.MaskedAutoregressiveFlow(bijector_fn=bijector_fn, name="step")
