"""Gaussians: scales, and products of two."""

import typing

import tensorflow as tf

from tf_ldiaf.probability.activations import softplus
from tf_ldiaf.probability.gradients import custom_gradient

# softplus(SCALE_OFFSET) = 1: where the weights are small, scales start at 1.
SCALE_OFFSET = 0.5413248546129181
MIN_SCALE = 1e-3


def positive(raw_scale: tf.Tensor) -> tf.Tensor:
    """A scale of at least 1e-3, of any real number; 0 gives 1.001."""
    return softplus(raw_scale + SCALE_OFFSET) + MIN_SCALE


def fuse(top_down: tuple[tf.Tensor, tf.Tensor], bottom_up: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. fusion: the product of two Gaussians, each (loc, scale): precisions add.

    Returns:
        (loc, scale) of the normalised product, of the shape of the arguments.

    Source: He et al. 2019, Eq. 7; Sonderby et al. 2016, arXiv 1602.02282, Eq. 17-18.
    """
    zeros = tf.zeros_like(top_down[0]) + tf.zeros_like(bottom_up[0])
    return _fuse(*(part + zeros for part in (*top_down, *bottom_up)))  # of one shape


@custom_gradient
def _fuse(prior_loc, prior_scale, loc, scale) -> typing.Any:
    # Ratios of scales, not precisions: nothing overflows however small a scale is.
    norm = tf.sqrt(tf.square(prior_scale) + tf.square(scale))
    ratio, rest = prior_scale / norm, scale / norm
    weight = tf.square(ratio)

    def gradient(by_loc, by_scale):
        # By hand, so that each argument has one gradient. Without XLA, TensorFlow may add up three in any order: a
        # training that is resumed would then not be equal to the bit.
        by_ratio = 2.0 * ratio * (loc - prior_loc) * by_loc + scale * by_scale
        by_angle = by_ratio * rest / norm
        return (1.0 - weight) * by_loc, rest * by_angle, weight * by_loc, ratio * (by_scale - by_angle)

    return (prior_loc + weight * (loc - prior_loc), scale * ratio), gradient
