"""Far from where training usually is: everything stays finite, gradients too; and float32 is as good as float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from benchmarks import oracle, peers
from tf_ldiaf.layers.gates import all_gates_open
from tf_ldiaf.probability.gaussians import fuse
from tf_ldiaf.probability.likelihoods import Bernoulli

tfd = tfp.distributions

EXTREMES = np.array([-80, -40, -20, -5, -1, -1e-6, 0, 1e-6, 1, 5, 20, 40, 80], "float32")


def assert_finite_with_gradients(function, *arguments):
    arguments = [tf.constant(argument, tf.float32) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        results = tf.nest.flatten(function(*arguments))
        total = tf.add_n([tf.reduce_sum(result) for result in results])
    for value in [*results, *tape.gradient(total, arguments)]:
        assert np.isfinite(value).all()
    return results


def test_the_likelihood_of_a_pixel():
    for x in (0.0, 1.0):
        [found] = assert_finite_with_gradients(lambda logits, x=x: Bernoulli(logits=logits).log_prob(x), EXTREMES)
        expected = x * EXTREMES - np.logaddexp(0, EXTREMES.astype("float64"))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_fusion_and_densities_of_scales_between_e_to_the_minus_20_and_20():
    log_scales = np.linspace(-20, 20, 9)
    grid = np.array(list(itertools.product(log_scales, log_scales, [-3.0, 0.0, 3.0], [0.0, 5.0])))
    prior_scale, scale, loc, prior_loc = np.exp(grid[:, 0]), np.exp(grid[:, 1]), grid[:, 2], grid[:, 3]
    found = assert_finite_with_gradients(
        lambda *given: fuse((given[0], given[1]), (given[2], given[3])), prior_loc, prior_scale, loc, scale
    )
    precisions = prior_scale**-2, scale**-2
    total = sum(precisions)
    np.testing.assert_allclose(found[1], total**-0.5, rtol=1e-5)
    expected = (prior_loc * precisions[0] + loc * precisions[1]) / total
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    assert_finite_with_gradients(
        lambda z, scale: tfd.MultivariateNormalDiag([0.0], scale[:, tf.newaxis]).log_prob(z[:, tf.newaxis]), loc, scale
    )


@pytest.mark.parametrize("outputs", [-80, -20, 0, 20, 80])
def test_flows_whose_networks_say_extreme_things(build, outputs):
    model = build("ldiaf", num_flow_steps=3)
    last = model.graph.flows.stack[-1]
    last.bias.assign(tf.fill(last.bias.shape, float(outputs)))

    def both(z):
        flow = model.graph.flows.bijectors(tf.ones([3, 4, 4]))(1)
        return flow.forward(z), flow.forward_log_det_jacobian(z, event_ndims=1)

    assert_finite_with_gradients(both, np.linspace(-5, 5, 8).reshape(4, 2))


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("vae", {"node_dim": 1}),
        ("vae_iaf", {"node_dim": 1}),
        ("fc_vae", {"num_nodes": 2, "node_dim": 1}),
        ("ldiaf", {"num_nodes": 4, "node_dim": 1, "num_flow_steps": 1}),
    ],
)
def test_one_image_of_one_colour_at_the_smallest_sizes(build, method, sizes, pixel):
    num_nodes = sizes.get("num_nodes", 1)
    model = build(method, adjacency=None if method == "ldiaf" else all_gates_open(num_nodes), **sizes)
    x = tf.fill([1, 3, 3], pixel)
    with tf.GradientTape() as tape:
        terms = model(x, seed=[1, 2], training=True)
        elbo = tf.reduce_sum(terms.elbo())
    gradients = tape.gradient(elbo, [v.value for v in model.trainable_variables])
    for value in [elbo, *terms, *(g for g in gradients if g is not None)]:
        assert np.isfinite(value).all()
    assert np.isfinite(model.log_likelihood(x, 100)).all()
    assert set(np.unique(model.sample(3)["images"])) <= {0, 1}


def test_the_log_likelihood_in_float32_is_that_of_float64():
    """20 draws of 16 images, at the shipped sizes, with weights that are far from their initial values."""
    from benchmarks import peer_tf_ldiaf

    weights = oracle.perturbed(peers.init(peers.SIZES, 0), 1)
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (16, 784)).astype("uint8")
    contender = peer_tf_ldiaf.Contender(peers.SIZES, weights, 16, "launch")
    ours, exact = [], []
    for _ in range(20):
        eps = rng.normal(size=(5, 16, 16)).astype("float32")
        ours.append(contender.elbo(x, eps))
        exact.append(oracle.elbo(peers.SIZES, weights, x, eps.astype("float64"))[0])
    found = special.logsumexp(np.array(ours, "float64"), axis=0) - np.log(20)
    expected = special.logsumexp(np.array(exact), axis=0) - np.log(20)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("part", ["bottom_up", "top_down"])
@pytest.mark.parametrize("raw_scale", [-80.0, -20.0, 20.0, 80.0, np.exp(20.0)])
def test_the_elbo_where_networks_give_extreme_scales(build, images, part, raw_scale):
    model = build("ldiaf")
    bias = getattr(model.graph, part).stack[-1].bias
    bias.assign(
        tf.concat([bias[..., :2], tf.fill(bias[..., 2:4].shape, np.float32(raw_scale)), bias[..., 4:]], axis=-1)
    )
    with tf.GradientTape() as tape:
        terms = model(images(5), seed=[1, 2], training=True)
        elbo = tf.reduce_sum(terms.elbo())
    for value in [*terms, *tape.gradient(elbo, [v.value for v in model.trainable_variables])]:
        assert np.isfinite(value).all()
    assert np.isfinite(model.log_likelihood(images(5), 10)).all()
