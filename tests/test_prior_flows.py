"""The flow in the prior: against autodiff, quadrature, float64 and TFP's other direction."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from test_distributions import CHAIN, on_a_grid, smooth
from test_flows import is_a, jacobian, last_network_in_float64, normal

from tf_ldiaf.layers import MaskedAutoregressiveFlow
from tf_ldiaf.structure import with_edges

tfb, tfd = tfp.bijectors, tfp.distributions
SHAPES = [(1, 2, (16, 16)), (4, 3, (16, 16)), (5, 2, (3, 2)), (3, 1, (16,))]


def make_flow(node_dim, num_steps, units, context_dim=3):
    keras.utils.set_random_seed(0)
    flow = MaskedAutoregressiveFlow(node_dim, context_dim, num_steps, units, num_nodes=2)
    flow.build()
    return flow


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_of_a_density_is_that_of_the_autodiff_jacobian(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z, bijector = normal([6, node_dim], 1), flow.bijector_of(1, normal([6, 3], 2))
    sign, log_det = np.linalg.slogdet(jacobian(bijector.inverse, z).astype("float64"))
    assert (sign == 1).all()
    assert np.abs(log_det).min() > 0.05
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(tf.constant(z.numpy()), 1), log_det, atol=1e-4)


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_a_draw_is_the_inverse_of_a_density(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    u, bijector = normal([6, node_dim], 1), flow.bijector_of(1, normal([6, 3], 2))
    z, log_det = bijector.forward(u), bijector.forward_log_det_jacobian(u, event_ndims=1)
    z_again = tf.constant(z.numpy())  # TFP keeps what it computed for a tensor
    np.testing.assert_allclose(bijector.inverse(z_again), u, atol=1e-4)
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(z_again, event_ndims=1), -log_det, atol=1e-4)
    assert np.abs(z - u).max() > 0.1


def test_a_step_is_exactly_triangular_and_the_equation_in_float64(randomise):
    """The last node's second step, whose order is reversed."""
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([6, 3], 1), normal([6, 3], 2)
    step = flow.bijector_of(1, context).bijectors[0]
    assert is_a(step, tfb.MaskedAutoregressiveFlow)
    matrix = jacobian(step.inverse, z)
    np.testing.assert_array_equal(np.tril(matrix, -1), 0.0)
    m, gate_logit = last_network_in_float64(flow, z, context)
    s = 0.1 + 0.9 / (1 + np.exp(-gate_logit - 2))
    np.testing.assert_allclose(step.inverse(tf.constant(z.numpy())), (z - (1 - s) * m) / s, atol=1e-4)
    np.testing.assert_allclose(matrix[:, range(3), range(3)], 1 / s, rtol=1e-4)


def test_all_nodes_at_once_are_each_node_alone(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, contexts = normal([2, 6, 3], 1), normal([2, 6, 3], 2)
    together = flow.bijector_of_all(contexts)
    for n in range(2):
        alone = flow.bijector_of(n, contexts[n])
        np.testing.assert_allclose(together.inverse(z)[n], alone.inverse(z[n]), atol=1e-5)
        np.testing.assert_allclose(together.forward(z)[n], alone.forward(z[n]), atol=1e-5)
    assert np.abs(together.inverse(z)[1] - flow.bijector_of(0, contexts[1]).inverse(z[1])).max() > 0.1


@pytest.mark.parametrize("root_components", [0, 3])
def test_log_prob_against_a_joint_distribution_of_tfp(build, root_components):
    """Each node alone, as a `TransformedDistribution` of its Gaussian, with the context of its own network."""
    model = build(adjacency=CHAIN, root_components=root_components, prior_flow_steps=2)
    z, graph = normal([4, 5, 3, 2], 3), model.graph
    root = graph.root.distribution() if root_components else tfd.MultivariateNormalDiag(tf.zeros(2), tf.ones(2))

    def node(n, base, context):
        flow = graph.prior_flows.bijector_of(n, tf.reshape(context, [-1, 4]))
        return lambda z: tfd.TransformedDistribution(base, flow).log_prob(tf.constant(z.numpy()))

    def given(n, *gated):
        loc, scale, context = graph.top_down.of_one()(n, tf.reshape(tf.concat(gated, axis=-1), [-1, 4]))
        return node(n, tfd.MultivariateNormalDiag(loc, scale), context)

    z1, z2, z3 = (tf.reshape(part, [20, 2]) for part in tf.unstack(z, axis=2))
    expected = [given(0, z2, 0 * z3)(z1), given(1, 0 * z2, z3)(z2), node(2, root, tf.zeros([20, 4]))(z3)]
    found = model.prior().log_prob_parts(z)
    np.testing.assert_allclose(found, tf.reshape(tf.stack(expected, axis=-1), [4, 5, 3]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "sizes", [{"method": "vae", "node_dim": 2}, {"method": "ldiaf", "num_nodes": 2, "node_dim": 1, "edges": "all"}]
)
def test_the_prior_integrates_to_one_and_its_draws_have_the_moments_of_its_density(build, sizes):
    """On a grid; of 50,000 draws, the mean, the square and the product of two numbers at 5 standard errors: 5
    comparisons, so a right prior fails for fewer than 1 seed in 100,000."""
    prior = smooth(build(**sizes, prior_flow_steps=2, flow_units=(16,), context_dim=4)).prior()
    grid, area = on_a_grid(12, 481)
    density = np.exp(prior.log_prob(tf.constant(grid.reshape(-1, *prior.event_shape))).numpy().astype("float64")) * area
    assert density.sum() == pytest.approx(1, abs=1e-3)
    draws = prior.sample(50_000, seed=0).numpy().reshape(-1, 2)
    for of in (lambda z: z, np.square, lambda z: z.prod(axis=1, keepdims=True)):
        values = of(draws.astype("float64"))
        error = values.std(axis=0) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - density @ of(grid)) < 5 * error + 1e-3).all()


def test_densities_far_out_are_finite_and_so_are_their_gradients(build):
    model, z = build(adjacency=CHAIN, prior_flow_steps=3), tf.constant(normal([8, 3, 2], 1).numpy() * 1e4)
    with tf.GradientTape() as tape:
        log_prob = model.prior().log_prob(z)
    variables = [v.value for v in [*model.graph.prior_flows.variables, *model.graph.top_down.variables]]
    assert np.isfinite(log_prob).all()
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(log_prob, variables))


def test_nodes_drawn_given_the_parents_they_have_are_those_of_a_sample(build):
    model = build(adjacency=CHAIN, root_components=2, prior_flow_steps=2)
    noise, seed = model.graph.noise((1, 5), (3, 4)), tf.constant([1, 1])
    z = model.prior().from_noise(noise, seed)
    np.testing.assert_allclose(model.prior().given(z, noise, seed), z, atol=1e-5)
    kept = model.prior().resampled(z[0], [True, False, True], seed=7).numpy()
    np.testing.assert_array_equal(kept[:, [0, 2]], z[0].numpy()[:, [0, 2]])
    assert (kept[:, 1] != z[0].numpy()[:, 1]).all()
    compiled = tf.function(lambda: model.prior().sample(4, seed=3), jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(), model.prior().sample(4, seed=3), atol=1e-5)


def test_innovations_are_of_the_gaussian_before_the_flow(build, images):
    model = build("vae", prior_flow_steps=2, flow_units=(8,), context_dim=4)
    codes, innovations = model.codes_and_innovations(model.features(images(5)))
    flow = model.graph.prior_flows.bijector(tf.zeros([5, 4]))
    np.testing.assert_allclose(innovations[:, 0], flow.inverse(codes[:, 0]), atol=1e-5)
    assert np.abs(innovations - codes).max() > 0.1


def test_a_copy_with_other_edges_has_the_flow_and_there_is_no_mean(build, images):
    model = build(adjacency=CHAIN, prior_flow_steps=2)
    copy, z = with_edges(model, model.edges), normal([5, 3, 2], 1)
    np.testing.assert_array_equal(copy.prior().log_prob(z), model.prior().log_prob(z))
    without = with_edges(model, [])
    assert (without.prior().log_prob(z) != copy.prior().log_prob(z)).numpy().all()
    with pytest.raises(NotImplementedError, match=r"^The mean of a LatentPrior has a closed form only [^.]*\.$"):
        without.prior().mean()


def test_training_with_it_raises_the_elbo_and_is_saved(compiled, images, tmp_path):
    model, x = compiled("ldiaf", edges="3-2,2-1", prior_flow_steps=1, learning_rate=0.01), images(64)
    history = model.fit(x, epochs=8, batch_size=16, verbose=0).history
    assert history["elbo"][-1] > history["elbo"][0] + 0.2
    before = [v.numpy() for v in model.graph.prior_flows.variables]
    model.fit(x, epochs=1, batch_size=16, verbose=0)
    assert all((v.numpy() != b).any() for v, b in zip(model.graph.prior_flows.variables, before, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.sample(3, seed=1)["probs"], model.sample(3, seed=1)["probs"])
