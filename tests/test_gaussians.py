"""Gaussians: the mixture at the root against TFP's, and its draws against its density."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers import MixturePrior
from tf_ldiaf.probability.gaussians import positive

tfd = tfp.distributions


@pytest.fixture
def mixture(randomise):
    keras.utils.set_random_seed(0)
    layer = MixturePrior(3, 2)
    layer.build()
    return randomise(layer)


def oracle(layer):
    scale = tf.math.log1p(tf.exp(layer.raw_scale + np.log(np.e - 1).astype("float32"))) + 1e-3
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(layer.num_components)), tfd.MultivariateNormalDiag(layer.loc.value, scale)
    )


def test_its_density_is_that_of_tfp(mixture):
    z = 2.0 * tf.random.stateless_normal([4, 5, 2], [0, 0])
    for found in (mixture(z), mixture.distribution().log_prob(z)):
        np.testing.assert_allclose(found, oracle(mixture).log_prob(z), rtol=1e-5, atol=1e-5)


def test_its_draws_have_the_moments_of_its_density(mixture):
    """30,000 draws; 5 standard errors of each of 5 moments: a right sampler fails for 3 seeds in a million."""
    z = mixture.from_noise(tf.random.stateless_normal([30, 1_000, 2], [1, 0]), [2, 0]).numpy().reshape(-1, 2)
    expected = oracle(mixture)
    covariance = tfp.stats.covariance(expected.sample(10**6, seed=3)).numpy()
    found = [*z.T, *(z - expected.mean()).numpy().T ** 2, np.prod(z - expected.mean(), axis=1)]
    for values, moment in zip(found, [*expected.mean(), *np.diag(covariance), covariance[0, 1]], strict=True):
        assert abs(values.mean() - moment) < 5 * values.std() / np.sqrt(len(values)) + 0.01


@pytest.mark.parametrize("num", [1, 3, 7])
def test_every_component_is_drawn_and_no_other(num):
    layer = MixturePrior(num, 1)
    layer.build()
    layer.loc.assign(np.arange(num)[:, np.newaxis])
    found = layer.from_noise(tf.zeros([1, 1000, 1]), [0, 0]).numpy()
    assert set(found[0, :, 0]) == set(range(num))


def test_scales_stay_finite_with_finite_gradients_however_extreme():
    raw = tf.constant([-1e4, -80.0, 0.0, 80.0, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(raw)
        scale = positive(raw)
    assert (scale.numpy() >= 1e-3).all()
    assert np.isfinite(scale).all()
    assert np.isfinite(tape.gradient(scale, raw)).all()
    assert float(scale[2]) == pytest.approx(1.001, abs=1e-6)


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_a_models_prior_has_the_mixture_at_its_root_only(num_nodes, build, images):
    model = build("ldiaf", num_nodes=num_nodes, root_components=3)
    plain = build("ldiaf", num_nodes=num_nodes)
    plain.set_weights([w.numpy() for w in model.weights if "component" not in w.path])
    x = images(5)
    ours, theirs = (m(x, seed=(1, 2), num_samples=4) for m in (model, plain))
    np.testing.assert_allclose(ours.latents, theirs.latents, atol=1e-6)
    np.testing.assert_allclose(ours.log_prior[..., :-1], theirs.log_prior[..., :-1], atol=1e-5)
    root = oracle(model.graph.root).log_prob(ours.latents[:, :, -1])
    np.testing.assert_allclose(ours.log_prior[..., -1], root, atol=1e-5)


def test_what_is_sampled_begins_at_the_mixture(build):
    model = build("ldiaf", root_components=2)
    model.graph.root.loc.assign([[5.0, 5.0], [-5.0, -5.0]])
    model.graph.root.raw_scale.assign(np.full((2, 2), -20.0))
    noise = model.graph.noise((1, 200), [0, 0])
    root = model.prior().from_noise(noise, [3, 4])[0, :, -1].numpy()
    assert (np.abs(np.abs(root) - 5.0) < 0.02).all()
    # 200 fair coins: within 5 standard deviations of 100.
    assert abs((root[:, 0] > 0).sum() - 100) < 36
