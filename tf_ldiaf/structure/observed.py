"""A latent graph whose nodes are seen: the prior alone, fitted to nodes that are given."""

import keras
import tensorflow as tf

from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.probability.bounds import Terms


@keras.saving.register_keras_serializable("tf_ldiaf")
class ObservedNodes(LDIAF):
    """A model whose images are the nodes themselves, z [B, N, D], any real numbers.

    Its ELBO is log p(z), and its `kl_per_node` is -log p(z_n given its parents), nats. Only the top-down networks
    (and the root's prior) learn. Arguments as of `LDIAF`; `edges` must be given.
    """

    def __init__(self, *args, **kwargs):
        unused = {"encoder_units": [1], "decoder_units": [1]}
        super().__init__(*args, **kwargs | unused)
        if self.gates.fixed is None:
            raise ValueError("edges must be pairs (parent, child). Received: None.")

    def build(self, input_shape) -> None:
        if tuple(input_shape[1:]) != (self.num_nodes, self.node_dim):
            raise ValueError(f"x must be images of shape {(self.num_nodes, self.node_dim)}. Received: {input_shape}.")
        super().build(input_shape)

    def features(self, x, training: bool = False) -> tf.Tensor:
        return self.encoded(tf.convert_to_tensor(x), training)

    def terms(self, x, features, seed, num_samples, training=False, first=(0, 0)) -> Terms:
        drawn = super().terms(x, features, seed, num_samples, training, first)
        nothing = 0.0 * (drawn.log_prior + drawn.log_posterior)  # so that every weight has a gradient
        log_prior = self.prior().log_prob_parts(tf.cast(x, tf.float32)[tf.newaxis]) + nothing
        return Terms(0.0 * drawn.log_likelihood, log_prior, nothing, drawn.latents)

    def check_images(self, x, pixels=None) -> None:
        pass

    def _no_pictures(self, *args, **kwargs):
        raise ValueError(
            "model must have pictures and codes. Received: ObservedNodes, whose nodes are seen; `model.prior().sample` "
            "draws them."
        )

    # All that speaks of pictures or codes would come from networks that never learn.
    sample = encode = reconstruct = decode = resample = predict = export = _no_pictures

    @staticmethod
    def _num_bad_pixels(x, pixels):
        return tf.constant(0.0)
