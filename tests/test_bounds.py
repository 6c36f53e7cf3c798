"""Bounds against models whose log p(x) is known by another route."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

from tf_ldiaf.model.estimator import importance_weighted
from tf_ldiaf.model.metrics import ActiveUnits
from tf_ldiaf.probability import bounds

tfd = tfp.distributions


def log_likelihood(log_weights):
    """The importance-weighted bound of log-weights [S, B], by the estimator that the model uses."""
    return estimated(log_weights)["log_likelihood"].numpy()


def estimated(log_weights):
    log_weights = tf.constant(np.asarray(log_weights, "float32"))
    num, num_images = log_weights.shape

    def draw(first, num):
        # What is said of draws beyond S is not to be used.
        found = tf.pad(log_weights, [[0, num], [0, 0]], constant_values=np.nan)[first : first + num]
        zeros = tf.zeros([num, num_images, 1])
        return bounds.Terms(found, zeros, zeros, zeros[..., tf.newaxis])

    return importance_weighted(draw, num, tf.constant(num_images), 1)


def test_exact_posterior_gives_log_evidence_without_variance():
    """A linear-Gaussian chain z_2 -> z_1 -> x, its posterior and evidence by conditioning the joint covariance."""
    c, r, a, s = 0.7, 0.6, -1.3, 0.8
    mix = np.array([[1, 0, 0], [c, r, 0], [a * c, a * r, s]])  # (z_2, z_1, x) = mix @ standard normals
    joint = mix @ mix.T
    x = np.array([-1.0, 0.3, 2.5])
    gain = joint[:2, 2] / joint[2, 2]
    posterior = joint[:2, :2] - np.outer(gain, joint[2, :2])
    rng = np.random.default_rng(0)
    z2 = gain[0] * x + math.sqrt(posterior[0, 0]) * rng.normal(size=(50, 3))
    slope = posterior[0, 1] / posterior[0, 0]
    z1_loc, z1_scale = gain[1] * x + slope * (z2 - gain[0] * x), math.sqrt(posterior[1, 1] - slope * posterior[0, 1])
    z1 = z1_loc + z1_scale * rng.normal(size=(50, 3))
    elbo = bounds.elbo(
        log_likelihood=tf.constant(stats.norm.logpdf(x, a * z1, s)),
        log_prior=tf.stack([stats.norm.logpdf(z1, c * z2, r), stats.norm.logpdf(z2)], axis=-1),
        log_posterior=tf.stack(
            [stats.norm.logpdf(z1, z1_loc, z1_scale), stats.norm.logpdf(z2, gain[0] * x, math.sqrt(posterior[0, 0]))],
            axis=-1,
        ),
    )
    assert elbo.shape == (50, 3)
    evidence = stats.norm.logpdf(x, 0, math.sqrt(joint[2, 2]))
    np.testing.assert_allclose(elbo, np.broadcast_to(evidence, (50, 3)), atol=1e-10)


def test_importance_weighted_bound_finds_log_evidence_of_quadrature():
    def joint(z):
        return stats.norm.pdf(z) / (1 + math.exp(2 - 3 * z))

    log_evidence = math.log(integrate.quad(joint, -12, 12)[0])
    posterior = tfd.Normal(tf.constant(0.8, tf.float64), 0.9)
    z = posterior.sample(40_000, seed=[1, 2])
    log_weights = bounds.elbo(
        tfd.Bernoulli(logits=3 * z - 2).log_prob(1)[:, tf.newaxis],
        tfd.Normal(tf.constant(0.0, tf.float64), 1.0).log_prob(z)[:, tf.newaxis, tf.newaxis],
        posterior.log_prob(z)[:, tf.newaxis, tf.newaxis],
    )
    log_weights = log_weights.numpy()
    weights = np.exp(log_weights)
    standard_error = weights.std() / weights.mean() / math.sqrt(40_000)
    assert standard_error < 0.01
    # 5 standard errors: a right estimate fails for 6 seeds in 10 million.
    assert abs(log_likelihood(log_weights)[0] - log_evidence) < 5 * standard_error
    assert np.mean(log_weights) < log_evidence - 5 * np.std(log_weights) / math.sqrt(40_000)


def test_importance_weighted_bound_rises_with_samples_to_log_evidence():
    """The bound's expectation is exact here: all draws of a three-valued z are enumerated."""
    joint, posterior = np.array([0.10, 0.05, 0.20]), np.array([0.5, 0.2, 0.3])
    expected = []
    for num in range(1, 8):
        draws = np.array(list(itertools.product(range(3), repeat=num))).T  # [S, draws of S]
        bound = log_likelihood(np.log(joint / posterior)[draws])
        expected.append(np.sum(posterior[draws].prod(axis=0) * bound))
    assert expected[0] == pytest.approx(np.sum(posterior * np.log(joint / posterior)), abs=1e-6)  # the ELBO
    assert (np.diff(expected) > 1e-4).all()
    assert expected[-1] < math.log(joint.sum())
    assert expected[-1] == pytest.approx(math.log(joint.sum()), abs=0.1)


def test_one_importance_sample_is_the_elbo():
    elbo = np.random.default_rng(0).normal(scale=100, size=(1, 7)).astype("float32")
    np.testing.assert_array_equal(log_likelihood(elbo), elbo[0])


@pytest.mark.parametrize("num", [2, 5_000])  # in one chunk, and in several whose last is not full
def test_importance_weights_of_any_size(num):
    np.testing.assert_allclose(
        log_likelihood(np.tile([1e4, -1e4, 0.0], (num, 1))), [1e4, -1e4, 0.0], rtol=1e-5, atol=1e-4
    )
    half = np.where(np.arange(num) % 2, 0.0, -np.inf)[:, np.newaxis]
    np.testing.assert_allclose(log_likelihood(half), -math.log(2), atol=1e-5)


@pytest.mark.parametrize("num", [1, 7, 5_000])
def test_how_many_draws_decide_it(num):
    """Against the weights in float64. All where they are equal, one where it outweighs the rest."""
    log_weights = np.random.default_rng(0).normal(size=(num, 3)) - 1e3
    w = np.exp(log_weights + 1e3)
    found = estimated(log_weights)["effective_samples"]
    np.testing.assert_allclose(found, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=2e-3)
    np.testing.assert_allclose(estimated(np.full((num, 2), -80.0))["effective_samples"], num, rtol=1e-4)
    one = np.where(np.arange(num) == num // 2, 50.0, -50.0)[:, np.newaxis]
    np.testing.assert_allclose(estimated(one)["effective_samples"], 1, rtol=1e-4)


def test_kl_weight_scales_only_the_kl_term():
    log_likelihood = tf.constant([[-10.0]])
    log_prior, log_posterior = tf.constant([[[-3.0, -2.0]]]), tf.constant([[[-1.0, -1.5]]])
    np.testing.assert_array_equal(bounds.kl_per_node(log_prior, log_posterior), [[[2.0, 0.5]]])
    for weight, expected in [(0.0, -10.0), (0.5, -11.25), (1.0, -12.5)]:
        assert float(bounds.elbo(log_likelihood, log_prior, log_posterior, weight)[0, 0]) == expected


def test_bits_per_dim_by_hand():
    """A uniform choice among 256 grey levels costs 8 bits, a fair coin 1 bit."""
    log_likelihoods = tf.constant([784 * math.log(1 / 256), 784 * math.log(0.5), 0.0])
    np.testing.assert_allclose(bounds.bits_per_dim(log_likelihoods, 784), [8, 1, 0], rtol=1e-6)


def test_active_units_are_those_whose_code_varies_with_the_image():
    """Known variances of 8 units, in batches of unequal size with padding that has weight 0."""
    deviations = np.array([[0.0, 0.05, 0.08, 0.09], [0.11, 0.15, 1.0, 3.0]])
    rng = np.random.default_rng(0)
    codes = (5 + rng.choice([-1, 1], size=(6_000, 2, 4)) * deviations).astype("float32")
    metric = ActiveUnits((2, 4))
    for start, end in [(0, 1_000), (1_000, 1_010), (1_010, 6_000)]:
        padding = rng.normal(size=(7, 2, 4), scale=100).astype("float32")
        weight = np.concatenate([np.ones(end - start), np.zeros(7)])
        metric.update_state(tf.constant(np.concatenate([codes[start:end], padding])), tf.constant(weight, tf.float32))
    assert float(metric.result()) == 4
    metric.reset_state()
    metric.update_state(tf.constant(codes))
    assert float(metric.result()) == 4
    strict = ActiveUnits((2, 4), threshold=0.5)
    strict.update_state(tf.constant(codes))
    assert float(strict.result()) == 2
