"""A latent graph whose nodes are seen: the prior alone, fitted to nodes that are given."""

import keras
import tensorflow as tf

from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.probability.bounds import Terms


@keras.saving.register_keras_serializable("tf_ldiaf")
class ObservedNodes(LDIAF):
    """A model whose images are the nodes themselves, z [B, N, D], any real numbers.

    Its ELBO is log p(z), and its `kl_per_node` is -log p(z_n given its parents), nats. Only the top-down networks
    (and the root's prior) learn; the gates are fixed. Arguments as of `LDIAF`.
    """

    def __init__(self, *args, **kwargs):
        unused = {"encoder_units": [1], "decoder_units": [1]}
        super().__init__(*args, **kwargs | unused)

    def features(self, x) -> tf.Tensor:
        return self.encoded(tf.convert_to_tensor(x))

    def terms(self, x, features, seed, num_samples, training=False, first=(0, 0)) -> Terms:
        drawn = super().terms(x, features, seed, num_samples, training, first)
        nothing = 0.0 * (drawn.log_prior + drawn.log_posterior)  # so that every weight has a gradient
        log_prior = self.prior().log_prob_parts(tf.cast(x, tf.float32)[tf.newaxis]) + nothing
        return Terms(0.0 * drawn.log_likelihood, log_prior, nothing, drawn.latents)

    @staticmethod
    def _check_array(x, is_grey=False):
        pass

    @staticmethod
    def _num_bad_pixels(x, is_grey=False):
        return tf.constant(0.0)
