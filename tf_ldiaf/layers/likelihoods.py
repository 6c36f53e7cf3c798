"""From what a decoder gives to p(x given z): what the pixels of an image may be.

A likelihood is a Keras layer with

    num_values                       2 or 256: pixels are whole numbers from 0 to num_values - 1
    numbers_per_pixel(image_shape)   how many numbers of the decoder each pixel takes
    layer(outputs, image_shape=...)  a `tfd.Distribution` of images: `log_prob`, `sample` and `mean`

A pixel is a place in the picture, with all its channels. `image_shape` is (H, W) or (H, W, C), and `outputs` is
[..., H, W, numbers per pixel].
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.probability import likelihoods
from tf_ldiaf.probability.likelihoods import grid_and_channels

_HALF = 127.5  # of the values 0 .. 255
_SMALLEST_LOG_SCALE = -7.0  # in units of half the values: narrower logistics have no gradient


@keras.saving.register_keras_serializable("tf_ldiaf")
class BernoulliLikelihood(Float32Layer):
    """Pixels of 0 and 1: a logit for each channel of a pixel."""

    num_values = 2

    def numbers_per_pixel(self, image_shape: Sequence[int]) -> int:
        """How many numbers of the decoder each pixel takes."""
        return grid_and_channels(image_shape)[1]

    def call(self, outputs, image_shape) -> tfp.distributions.Distribution:  # pyright: ignore[reportInvalidTypeForm]
        logits = _reshaped(outputs, image_shape, image_shape)
        return tfp.distributions.Independent(likelihoods.Bernoulli(logits, dtype=tf.float32), len(image_shape))


@keras.saving.register_keras_serializable("tf_ldiaf")
class Categorical(Float32Layer):
    """Pixels of the values 0 .. 255, each with a probability of its own: 256 logits for each channel of a pixel."""

    num_values = 256

    def numbers_per_pixel(self, image_shape: Sequence[int]) -> int:
        """How many numbers of the decoder each pixel takes."""
        return self.num_values * grid_and_channels(image_shape)[1]

    def call(self, outputs, image_shape) -> tfp.distributions.Distribution:  # pyright: ignore[reportInvalidTypeForm]
        logits = _reshaped(outputs, image_shape, (*image_shape, self.num_values))
        return tfp.distributions.Independent(likelihoods.Categorical(logits, dtype=tf.float32), len(image_shape))


@keras.saving.register_keras_serializable("tf_ldiaf")
class DiscretizedLogistic(Float32Layer):
    """Pixels of the values 0 .. 255: a mixture of logistics for each pixel, see `probability.likelihoods`.

    Each component has a weight, and a location and a scale for each channel. The channels of a coloured pixel are
    coupled: a component has a coefficient in (-1, 1) for each pair of them. Outputs of 0 are logistics in the middle of
    the values, half as wide as all of them.

    Args:
        num_components: K. None: 1 for grey images, and 10 for those with several channels.

    Example:

        >>> import tensorflow as tf
        >>> from tf_ldiaf.layers import DiscretizedLogistic
        >>> layer = DiscretizedLogistic(num_components=5)
        >>> layer.numbers_per_pixel((32, 32, 3))
        50
        >>> layer(tf.zeros([7, 32, 32, 50]), image_shape=(32, 32, 3)).sample(2, seed=0).shape
        TensorShape([2, 7, 32, 32, 3])
    """

    num_values = 256

    def __init__(self, num_components: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if num_components is not None and num_components < 1:
            raise ValueError(f"num_components must be at least 1. Received: {num_components}.")
        self.num_components = num_components

    def get_config(self) -> dict:
        return super().get_config() | {"num_components": self.num_components}

    def numbers_per_pixel(self, image_shape: Sequence[int]) -> int:
        """How many numbers of the decoder each pixel takes."""
        return sum(map(math.prod, self._parts(image_shape)))

    def _parts(self, image_shape):
        """Shapes of what a pixel takes: logits, which one component does not need, locs, log scales, coefficients."""
        channels = grid_and_channels(image_shape)[1]
        num = self.num_components or (1 if channels == 1 else 10)
        return [(num if num > 1 else 0,), (channels, num), (channels, num), (channels * (channels - 1) // 2, num)]

    def call(self, outputs, image_shape) -> tfp.distributions.Distribution:  # pyright: ignore[reportInvalidTypeForm]
        grid, _ = grid_and_channels(image_shape)
        shapes = self._parts(image_shape)
        parts = tf.split(outputs, [math.prod(shape) for shape in shapes], axis=-1)
        logits, loc, log_scale, coefficients = (
            _reshaped(part, image_shape, (*grid, *shape)) for part, shape in zip(parts, shapes, strict=True)
        )
        return likelihoods.DiscretizedLogistic(
            logits if logits.shape[-1] else tf.zeros_like(loc[..., 0, :]),
            _HALF * (1.0 + loc),
            math.log(_HALF) + tf.maximum(log_scale, _SMALLEST_LOG_SCALE),
            tf.tanh(coefficients),
            image_shape,
        )


def _reshaped(outputs, image_shape, shape):
    """[..., *shape] of [..., H, W, numbers]."""
    num_outer = outputs.shape.rank - len(grid_and_channels(image_shape)[0]) - 1
    reshaped = tf.reshape(outputs, tf.concat([tf.shape(outputs)[:num_outer], shape], axis=0))
    return tf.ensure_shape(reshaped, [*outputs.shape[:num_outer], *shape])


_BY_NAME = {
    "bernoulli": BernoulliLikelihood,
    "discretized_logistic": DiscretizedLogistic,
    "categorical": Categorical,
}


def make_likelihood(likelihood: keras.layers.Layer | str, num_components: int | None = None) -> keras.layers.Layer:
    """The layer of a name, or a layer of one's own after a look at whether it is a likelihood.

    Args:
        likelihood: a name or a layer.
        num_components: of a "discretized_logistic".

    Raises:
        ValueError: another name; a layer that is no likelihood; components of another likelihood.
    """
    if num_components is not None and likelihood != "discretized_logistic":
        raise ValueError(f"likelihood_components need discretized_logistic. Received: {num_components}.")
    if isinstance(likelihood, str) and likelihood in _BY_NAME:
        return DiscretizedLogistic(num_components) if num_components else _BY_NAME[likelihood]()
    is_one = hasattr(likelihood, "numbers_per_pixel") and getattr(likelihood, "num_values", None) in (2, 256)
    if not isinstance(likelihood, keras.Layer) or not is_one:
        found = likelihood if isinstance(likelihood, str) else f"a {type(likelihood).__name__}"
        raise ValueError(
            f"likelihood must be {', '.join(_BY_NAME)}, or a layer with numbers_per_pixel and a num_values of 2 or 256."
            f" Received: {found}."
        )
    if not likelihood.built:
        likelihood.dtype_policy = keras.DTypePolicy("float32")  # whatever policy was set when it was made
    return likelihood
