"""Gaussians: scales, and products of two."""

import tensorflow as tf

from tf_ldiaf.probability.activations import softplus

# softplus(_SCALE_OFFSET) = 1: where the weights are small, scales start at 1.
_SCALE_OFFSET = 0.5413248546129181
_MIN_SCALE = 1e-3


def positive(raw_scale: tf.Tensor) -> tf.Tensor:
    """A scale of at least 1e-3, of any real number; 0 gives 1.001."""
    return softplus(raw_scale + _SCALE_OFFSET) + _MIN_SCALE


def fuse(top_down: tuple[tf.Tensor, tf.Tensor], bottom_up: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. fusion: the product of two Gaussians, each (loc, scale): precisions add.

    Returns:
        (loc, scale) of the normalised product, of the shape of the arguments.

    Source: He et al. 2019, Eq. 7; Sonderby et al. 2016, arXiv 1602.02282, Eq. 17-18.
    """
    (prior_loc, prior_scale), (loc, scale) = top_down, bottom_up
    # Ratios of scales, not precisions: nothing overflows however small a scale is.
    ratio = prior_scale / tf.sqrt(tf.square(prior_scale) + tf.square(scale))
    return prior_loc + tf.square(ratio) * (loc - prior_loc), scale * ratio
