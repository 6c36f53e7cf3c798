"""Eq. iaf: masks, the masked network, and a node's chain of inverse autoregressive steps."""

import itertools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


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


@keras.saving.register_keras_serializable("tf_ldiaf")
class MaskedNetwork(keras.layers.Layer):
    """The autoregressive network of one step: (m, gate_logit) = net(z, h), both [B, D].

    Output d depends on z before d and on all of h. The context h enters the first layer, unmasked.

    Args:
        node_dim: D.
        units: hidden widths.
        reverse: whether the order of the dimensions is reversed.

    Source: Germain et al. 2015, arXiv 1502.03509; Kingma et al. 2016, arXiv 1606.04934, Algorithm 1.
    """

    def __init__(self, node_dim, units, reverse=False, **kwargs):
        super().__init__(**kwargs)
        self.node_dim, self.units, self.reverse = node_dim, tuple(units), reverse
        *hidden, last = autoregressive_masks(node_dim, self.units, reverse)
        self.masks = [*hidden, np.concatenate([last, last], axis=1)]

    def build(self, z_shape, context_shape):
        self.kernels, self.biases = [], []
        for i, mask in enumerate(self.masks):
            # Near the identity at the start: the last layer's outputs are small.
            scale = 0.01 if i == len(self.masks) - 1 else 1.0
            init = keras.initializers.VarianceScaling(scale, "fan_avg", "uniform")
            self.kernels.append(self.add_weight(name=f"kernel_{i}", shape=mask.shape, initializer=init))
            self.biases.append(self.add_weight(name=f"bias_{i}", shape=mask.shape[1:], initializer="zeros"))
        self.context_kernel = self.add_weight(
            name="context_kernel", shape=(context_shape[-1], self.units[0]), initializer="glorot_uniform"
        )
        self.built = True

    def call(self, z, context):
        hidden = z
        for i, mask in enumerate(self.masks):
            # tf.constant: a numpy mask times a Keras variable would cut the gradient, without a word.
            hidden = tf.matmul(hidden, tf.constant(mask) * self.kernels[i]) + self.biases[i]
            if i == 0:
                hidden += tf.matmul(context, self.context_kernel)
            if i < len(self.masks) - 1:
                hidden = tf.nn.elu(hidden)
        shift, gate_logit = tf.split(hidden, 2, axis=-1)
        return shift, gate_logit

    def get_config(self):
        return super().get_config() | {"node_dim": self.node_dim, "units": self.units, "reverse": self.reverse}


@keras.saving.register_keras_serializable("tf_ldiaf")
class InverseAutoregressiveFlow(keras.layers.Layer):
    """The chain of T steps that follows a node's Gaussian draw z_0.

        Eq. iaf: z_t = s_t z_{t-1} + (1 - s_t) m_t, with s_t = sigmoid(gate_logit + 2), for t = 1 .. T
        Eq. density: log q(z_T) = log N(z_0; loc, scale) - sum_t sum_d log s_t,d

    Called with a context it returns the chain as a TFP bijector closed over that context:
    `forward` maps z_0 to z_T in T network evaluations, `forward_log_det_jacobian` is
    sum_t sum_d log s_t,d, and `inverse` takes D evaluations a step. The order of the dimensions is
    reversed between steps, by the masks.

    Args:
        node_dim: D.
        num_steps: T.
        units: hidden widths of each step's masked network.

    Source: Kingma et al. 2016, arXiv 1606.04934, Eq. 10-14 and Algorithm 1.
    """

    def __init__(self, node_dim, num_steps, units, **kwargs):
        super().__init__(**kwargs)
        self.node_dim, self.num_steps, self.units = node_dim, num_steps, tuple(units)
        self.networks = [MaskedNetwork(node_dim, units, reverse=t % 2 == 1) for t in range(num_steps)]

    def build(self, context_shape):
        for network in self.networks:
            network.build((None, self.node_dim), context_shape)
        self.built = True

    def call(self, context):
        # A chain lists its last step first.
        return tfb.Chain([_step(network, context) for network in reversed(self.networks)])

    def get_config(self):
        return super().get_config() | {
            "node_dim": self.node_dim,
            "num_steps": self.num_steps,
            "units": self.units,
        }


def _step(network, context):
    """One step as a bijector. TFP's masked flow is the inverse direction, so it is inverted twice."""
    evaluated = []

    def bijector_fn(z, **_):
        # TFP asks once for the value and once for the determinant: the network is evaluated for the first.
        if not evaluated or evaluated[0] is not z:
            shift, gate_logit = network(z, context)
            s = tf.sigmoid(gate_logit + 2.0)
            log_s = -tf.nn.softplus(-gate_logit - 2.0)
            step = tfb.Chain([tfb.Shift((1.0 - s) * shift), tfb.Scale(log_scale=log_s)])
            evaluated[:] = [z, tfb.Invert(step)]
        return evaluated[1]

    return tfb.Invert(tfb.MaskedAutoregressiveFlow(bijector_fn=bijector_fn, event_ndims=1))
