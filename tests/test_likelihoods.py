"""Likelihoods: distributions over images, against sums over all values, float64, and draws; and what they can learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_ldiaf.layers import BernoulliLikelihood, Categorical, DiscretizedLogistic
from tf_ldiaf.probability import likelihoods

VALUES = np.arange(256.0)
LOG_SCALES = np.arange(-7.0, 7.1, 3.5)


def noise(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def one_logistic(loc, log_scale):
    """Of one pixel, in units of the values; `loc` and `log_scale` are [n]."""
    loc, log_scale = (tf.constant(np.reshape(x, (-1, 1, 1, 1, 1)), tf.float32) for x in (loc, log_scale))
    return likelihoods.DiscretizedLogistic(tf.zeros(loc.shape[:-1]), loc, log_scale, loc[..., :0, :], (1, 1))


def of_all_values(distribution):
    """[256, ...], log-probabilities of a distribution of one grey pixel."""
    return distribution.log_prob(tf.reshape(tf.constant(VALUES, tf.float32), [256, 1, 1, 1])).numpy()


LAYERS = {
    "categorical": (Categorical, {}),
    "one logistic": (DiscretizedLogistic, {}),
    "five logistics": (DiscretizedLogistic, {"num_components": 5}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_probabilities_of_all_values_of_a_pixel_sum_to_one(name):
    kind, settings = LAYERS[name]
    layer = kind(**settings)
    outputs = noise((50, 1, 1, layer.numbers_per_pixel((1, 1))), scale=3.0)
    log_probs = of_all_values(layer(outputs, image_shape=(1, 1)))
    assert log_probs.shape == (256, 50)
    np.testing.assert_allclose(np.exp(log_probs.astype("float64")).sum(axis=0), 1.0, atol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 127.5])
def test_logistics_of_every_scale_are_those_of_float64_and_sum_to_one(unit):
    loc, log_scale = (x.ravel() for x in np.meshgrid([-40.0, 0.0, 101.3, 255.0, 300.0], LOG_SCALES + np.log(unit)))
    log_probs = of_all_values(one_logistic(loc, log_scale))
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(np.exp(log_probs.astype("float64")).sum(axis=0), 1.0, atol=1e-5)
    loc, scale = np.float32(loc).astype("float64"), np.exp(np.float32(log_scale).astype("float64"))
    x = VALUES[:, np.newaxis]
    upper, lower = (stats.logistic(loc, scale).cdf(x + half) for half in (0.5, -0.5))
    above, below = (stats.logistic(loc, scale).sf(x + half) for half in (-0.5, 0.5))
    inside = np.where(upper < 0.5, upper - lower, above - below)  # of two small numbers
    probs = np.where(x == 0, upper, np.where(x == 255, above, inside))
    seen = probs > 1e-30
    z = np.abs(x - loc) / scale  # float32 knows it to 1e-7 of its size
    error = np.abs(log_probs - np.log(np.where(seen, probs, 1.0)))
    assert (error <= 5e-6 + 3e-7 * z)[seen].all()
    assert seen.sum() > 1000


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_are_finite_at_both_ends_and_at_every_scale(jit_compile):
    layer = DiscretizedLogistic(2)
    grids = np.meshgrid([0.0, 3.0], [-1.5, -1.0, 0.2, 1.0], [-8.0, *LOG_SCALES])
    logit, loc, log_scale = (x.ravel() for x in grids)
    outputs = tf.constant(np.stack([logit, -logit, loc, loc, log_scale, log_scale + 1.0], axis=-1), tf.float32)
    outputs = outputs[:, tf.newaxis, tf.newaxis]

    @tf.function(jit_compile=jit_compile)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            log_prob = layer(outputs, image_shape=(1, 1)).log_prob(tf.fill([len(logit), 1, 1], x))
        return log_prob, tape.gradient(log_prob, outputs)

    for x in (0.0, 1.0, 128.0, 254.0, 255.0):
        for part in gradient(tf.constant(x)):
            assert np.isfinite(part).all()
    assert (
        np.abs(gradient(tf.constant(128.0))[1].numpy()[..., 2:4]).max(axis=-1).min() > 0.0
    )  # wide logistics, too, are moved


def coupled(num_channels, num_components=2, seed=1):
    """One pixel of some channels: those of more channels have the same first ones."""
    rng = np.random.default_rng(seed)
    logits, loc = rng.normal(size=num_components), rng.uniform(40, 200, (3, num_components))
    log_scale, pairs = rng.uniform(0, 4, (3, num_components)), rng.uniform(-0.8, 0.8, (3, num_components))
    num_pairs = num_channels * (num_channels - 1) // 2
    parts = logits, loc[:num_channels], log_scale[:num_channels], pairs[:num_pairs]
    parts = [tf.constant(part[np.newaxis, np.newaxis], tf.float32) for part in parts]
    return likelihoods.DiscretizedLogistic(*parts, (1, 1, num_channels))


def test_a_coloured_pixel_is_a_chain_of_conditionals_that_sum_to_one():
    """Summed over the last channel, three channels are two, and two are one, whose probabilities sum to 1."""
    x = tf.constant(VALUES, tf.float32)
    for num, given in ((3, [30.0, 200.0]), (3, [0.0, 255.0]), (2, [77.0]), (1, [])):
        pixels = tf.stack([*(tf.fill([256], value) for value in given), x], axis=-1)[:, tf.newaxis, tf.newaxis]
        summed = np.exp(coupled(num).log_prob(pixels).numpy().astype("float64")).sum()
        shorter = float(coupled(num - 1).log_prob(tf.reshape(given, [1, 1, num - 1]))) if given else 0.0
        assert np.log(summed) == pytest.approx(shorter, abs=1e-5)


def joint_probs():
    """[256, 256], of a pixel of two channels."""
    pixels = np.stack(np.meshgrid(VALUES, VALUES, indexing="ij"), axis=-1).reshape(-1, 1, 1, 2)
    return np.exp(coupled(2).log_prob(tf.constant(pixels, tf.float32)).numpy().astype("float64")).reshape(256, 256)


def test_channels_follow_those_before_them():
    """The conditional of the second channel in float64, for a single component."""
    loc, log_scale = np.array([[90.0], [120.0]]), np.array([[2.0], [1.0]])
    parts = [
        tf.constant(x[np.newaxis, np.newaxis], tf.float32) for x in (np.zeros(1), loc, log_scale, np.array([[-0.7]]))
    ]
    distribution = likelihoods.DiscretizedLogistic(*parts, (1, 1, 2))
    first, second = stats.logistic(90.0, np.exp(2.0)), stats.logistic(120.0 - 0.7 * (60 - 127.5), np.exp(1.0))
    expected = np.log(first.cdf(60.5) - first.cdf(59.5)) + np.log(second.cdf(170.5) - second.cdf(169.5))
    assert float(distribution.log_prob(tf.constant([[[60.0, 170.0]]]))) == pytest.approx(expected, abs=1e-4)


def test_draws_have_the_moments_of_the_probabilities():
    """Each moment within 5 standard errors: wrong once in 600,000 times."""
    x, probs = coupled(2).sample(40_000, seed=(0, 3)).numpy().reshape(-1, 2), joint_probs()
    assert set(np.unique(x)) <= set(VALUES)
    first, second = np.meshgrid(VALUES, VALUES, indexing="ij")
    for moment in (lambda a, b: a, lambda a, b: b, lambda a, b: a * b, lambda a, b: (b - a) ** 2, lambda a, b: b == 0):
        found = moment(x[:, 0], x[:, 1])
        expected = (probs * moment(first, second)).sum()
        assert abs(found.mean() - expected) < 5 * found.std() / 200 + 1e-9
    mean = coupled(2).mean().numpy().ravel()
    np.testing.assert_allclose(mean[0], (probs * first).sum(), atol=0.01)
    np.testing.assert_allclose(mean[1], (probs * second).sum(), atol=1.0)  # some is cut


@pytest.mark.parametrize(("log_scales", "atol"), [([np.log(0.5), 2.0, 5.0, 9.0], 0.03), ([-7.0, -2.0], 0.5001)])
def test_a_mean_is_that_of_all_values(log_scales, atol):
    loc, log_scale = (x.ravel() for x in np.meshgrid([-3.0, 0.3, 101.3, 254.6, 270.0], log_scales))
    distribution = one_logistic(loc, log_scale)
    expected = (np.exp(of_all_values(distribution).astype("float64")) * VALUES[:, np.newaxis]).sum(axis=0)
    np.testing.assert_allclose(distribution.mean().numpy().ravel(), expected, atol=atol)


def test_a_categorical_pixel_by_hand():
    logits = noise((3, 2, 2, 512))
    distribution = Categorical()(logits, image_shape=(2, 2, 2))
    probs = np.exp(logits.reshape(3, 2, 2, 2, 256).astype("float64"))
    probs /= probs.sum(axis=-1, keepdims=True)
    x = np.random.default_rng(1).integers(0, 256, (3, 2, 2, 2))
    expected = np.log(np.take_along_axis(probs, x[..., np.newaxis], axis=-1)).sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(distribution.log_prob(x.astype("float32")), expected, rtol=1e-5)
    np.testing.assert_allclose(distribution.mean(), probs @ VALUES, rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), probs.argmax(axis=-1))


SHAPES = {(4, 5): 1, (4, 5, 1): 1, (4, 5, 3): 3, (9,): 1}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [BernoulliLikelihood, Categorical, DiscretizedLogistic])
def test_a_likelihood_has_images_as_events(kind, shape):
    layer, channels = kind(), SHAPES[shape]
    numbers = {BernoulliLikelihood: 1, Categorical: 256, DiscretizedLogistic: 2}[kind] * channels
    if kind is DiscretizedLogistic and channels == 3:
        numbers = 100  # 10 components: weights, 3 locations, 3 scales, 3 coefficients
    assert layer.numbers_per_pixel(shape) == numbers
    grid = shape[:2]
    distribution = layer(noise((2, 3, *grid, numbers)), image_shape=shape)
    assert (distribution.batch_shape, distribution.event_shape) == ((2, 3), shape)
    x = distribution.sample(4, seed=(0, 1))
    assert (x.shape, x.dtype) == ((4, 2, 3, *shape), tf.float32)
    np.testing.assert_array_equal(x, distribution.sample(4, seed=(0, 1)))
    np.testing.assert_array_equal(x, np.round(x))
    assert 0 <= np.min(x) < np.max(x) <= layer.num_values - 1
    assert distribution.log_prob(x).shape == (4, 2, 3)
    assert distribution.mean().shape == (2, 3, *shape)


TARGETS = {
    "five values": np.where(VALUES % 60 == 7, 1.0 + VALUES, 0.0),
    "two humps": stats.norm(60, 9).pdf(VALUES) + 3 * stats.logistic(190, 12).pdf(VALUES) + 0.02 * (VALUES == 255),
}


@pytest.mark.parametrize(("layer", "target"), [
    (Categorical(), "five values"), (Categorical(), "two humps"), (DiscretizedLogistic(8), "two humps"),
])  # fmt: skip
def test_a_known_distribution_is_learned_to_a_hundredth_of_a_bit(layer, target):
    probs = TARGETS[target] / TARGETS[target].sum()
    outputs = keras.Variable(noise((1, 1, layer.numbers_per_pixel((1, 1))), scale=0.5))
    weights, x = tf.constant(probs, tf.float32), tf.constant(VALUES.reshape(256, 1, 1), tf.float32)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 1000))
    optimizer.build([outputs])

    @tf.function(jit_compile=True)
    def learn():
        for _ in tf.range(1000):
            with tf.GradientTape() as tape:
                log_probs = layer(tf.convert_to_tensor(outputs), image_shape=(1, 1)).log_prob(x)
                loss = -tf.reduce_sum(weights * log_probs)
            optimizer.apply([tape.gradient(loss, outputs.value)], [outputs])

    learn()
    log_probs = layer(outputs.value, image_shape=(1, 1)).log_prob(x).numpy()
    excess = (probs * (np.log(np.where(probs, probs, 1.0)) - log_probs)).sum() / np.log(2)
    assert 0.0 <= excess + 1e-5 < 0.01
