"""The prior of the root: a mixture of Gaussians that are learned."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.probability.gaussians import positive
from tf_ldiaf.probability.noise import uniform

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tf_ldiaf")
class MixturePrior(Float32Layer):
    """Eq. root: p(z_N) = 1/K sum_k N(z_N; loc_k, scale_k), with locs and scales that are learned.

    Args:
        num_components: K.
        dim: D.

    Source: the "MoG" prior of Tomczak and Welling 2018, arXiv 1705.07120, section 2.

    Example:

        >>> from tf_ldiaf.layers import MixturePrior
        >>> MixturePrior(num_components=10, dim=2).distribution().log_prob([[0.0, 0.0]]).shape
        TensorShape([1])
    """

    def __init__(self, num_components: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.num_components, self.dim = num_components, dim

    def build(self, input_shape=None) -> None:
        shape = (self.num_components, self.dim)
        spread = keras.initializers.RandomNormal(0.0, 1.0)  # as the draws of N(0, I) that they take the place of
        self.loc = self.add_weight(name="component_loc", shape=shape, initializer=spread)
        self.raw_scale = self.add_weight(name="component_raw_scale", shape=shape, initializer="zeros")
        self.built = True

    def distribution(self) -> tfp.distributions.MixtureSameFamily:  # pyright: ignore[reportInvalidTypeForm]
        """p(z_N), with event shape [D]."""
        loc, scale = self._parameters()
        components = tfd.MultivariateNormalDiag(loc, scale)
        return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(self.num_components)), components)

    def from_noise(self, noise: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws whose normal part is given.

        Args:
            noise: [S, B, D], standard normal.
            seed: [2], int32, a stateless seed, of the components that are drawn.

        Returns:
            z: [S, B, D].
        """
        shape = tf.unstack(tf.shape(noise)[:-1])
        component = tf.cast(tf.reshape(uniform((1, *shape, 1), seed), shape) * self.num_components, tf.int32)
        component = tf.minimum(component, self.num_components - 1)  # the product may be rounded up
        loc, scale = self._parameters()
        return tf.gather(loc, component) + tf.gather(scale, component) * noise

    def call(self, z: tf.Tensor) -> tf.Tensor:
        """log p(z) [...] of z [..., D], nats."""
        return self.distribution().log_prob(z)

    def _parameters(self):
        if not self.built:
            self.build()
        return tf.convert_to_tensor(self.loc), positive(tf.convert_to_tensor(self.raw_scale))
