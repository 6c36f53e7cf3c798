"""Gaussians: scales, densities, products, and mixtures of them."""

import math

import keras
import tensorflow as tf

from tf_ldiaf.layers.stacked import softplus
from tf_ldiaf.probability.noise import uniform

# softplus(_SCALE_OFFSET) = 1: where the weights are small, scales start at 1.
_SCALE_OFFSET = 0.5413248546129181
_MIN_SCALE = 1e-3
_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


def positive(raw_scale):
    """A scale of at least 1e-3, of any real number; 0 gives 1.001."""
    return softplus(raw_scale + _SCALE_OFFSET) + _MIN_SCALE


def fuse(top_down, bottom_up):
    """Eq. fusion: the product of two Gaussians, each (loc, scale): precisions add.

    Returns:
        (loc, scale) of the normalised product, of the shape of the arguments.

    Source: He et al. 2019, Eq. 7; Sonderby et al. 2016, arXiv 1602.02282, Eq. 17-18.
    """
    (prior_loc, prior_scale), (loc, scale) = top_down, bottom_up
    # Ratios of scales, not precisions: nothing overflows however small a scale is.
    ratio = prior_scale / tf.sqrt(tf.square(prior_scale) + tf.square(scale))
    return prior_loc + tf.square(ratio) * (loc - prior_loc), scale * ratio


def log_normal(standardized, scale):
    """log N(x; loc, scale) in nats, summed over the last axis, from (x - loc) / scale and scale."""
    return tf.reduce_sum(-0.5 * tf.square(standardized) - tf.math.log(scale) - _LOG_SQRT_2_PI, axis=-1)


class Mixture(keras.layers.Layer):
    """Eq. root: p(z_N) = 1/K sum_k N(z_N; loc_k, scale_k), with locs and scales that are learned.

    Args:
        num: K.
        dim: D.

    Source: the "MoG" prior of Tomczak and Welling 2018, arXiv 1705.07120, section 2.
    """

    def __init__(self, num, dim, **kwargs):
        super().__init__(**kwargs)
        self.num, self.dim = num, dim

    def build(self, input_shape=None):
        shape = (self.num, self.dim)
        spread = keras.initializers.RandomNormal(0.0, 1.0)  # as the draws of N(0, I) that they take the place of
        self.loc = self.add_weight(name="component_loc", shape=shape, initializer=spread)
        self.raw_scale = self.add_weight(name="component_raw_scale", shape=shape, initializer="zeros")
        self.built = True

    def log_prob(self, z):
        """[...] of z [..., D], nats."""
        loc, scale = tf.convert_to_tensor(self.loc), positive(tf.convert_to_tensor(self.raw_scale))
        of_each = log_normal((z[..., tf.newaxis, :] - loc) / scale, scale)
        return tf.reduce_logsumexp(of_each, axis=-1) - math.log(self.num)

    def sample(self, noise, seed):
        """Draws from it.

        Args:
            noise: [S, B, D], standard normal.
            seed: [2], int32, a stateless seed, of the components that are drawn.

        Returns:
            z: [S, B, D].
        """
        shape = tf.unstack(tf.shape(noise)[:-1])
        component = tf.cast(tf.reshape(uniform((1, *shape, 1), seed), shape) * self.num, tf.int32)
        component = tf.minimum(component, self.num - 1)  # the product may be rounded up
        loc, scale = tf.convert_to_tensor(self.loc), positive(tf.convert_to_tensor(self.raw_scale))
        return tf.gather(loc, component) + tf.gather(scale, component) * noise
