"""Prior, posterior and likelihood as TFP distributions: their shapes, and one route against another."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf import LDIAF
from tf_ldiaf.probability.gaussians import fuse

tfd = tfp.distributions
CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
KINDS = {
    "vae": {"method": "vae"},
    "vae_iaf": {"method": "vae_iaf"},
    "no edges": {"method": "ldiaf", "edges": "none"},
    "learned": {"method": "ldiaf"},
    "mixture": {"method": "ldiaf", "edges": "3-1,2-1", "root_components": 3},
    "mixture alone": {"method": "vae", "root_components": 2},
    "prior flow": {"method": "graph_vae", "edges": "3-1,2-1", "prior_flow_steps": 2},
}


@pytest.fixture(params=KINDS)
def model(request, build):
    return build(**KINDS[request.param])


@pytest.mark.parametrize(
    ("kind", "how", "sample_shape"),
    [(kind, "eager", (2, 5)) for kind in KINDS]
    + [("learned", "eager", ())]
    + [(kind, how, (2, 5)) for kind in ("vae", "mixture") for how in ("graph", "xla")],
)
def test_shapes(build, images, kind, how, sample_shape):
    model = build(**KINDS[kind])
    num_nodes, lead = model.num_nodes, list(np.atleast_1d(sample_shape))

    def shapes(x):
        prior, posterior = model.prior(), model.posterior(x)
        z = posterior.sample(sample_shape, seed=1)
        again, log_prob = posterior.experimental_sample_and_log_prob(sample_shape, seed=1)
        likelihood = model.likelihood(z)
        found = [prior.sample(sample_shape, seed=1), prior.log_prob(z), z, again, log_prob, posterior.log_prob(z)]
        found += [likelihood.mean(), likelihood.sample(seed=1), likelihood.log_prob(x)]
        parts = [prior.log_prob_parts(z), posterior.log_prob_parts(z)]
        assert (prior.batch_shape, prior.event_shape) == ([], [num_nodes, 2])
        assert posterior.event_shape == [num_nodes, 2]
        assert likelihood.event_shape == [3, 3]
        batches = [posterior.batch_shape_tensor(), posterior.event_shape_tensor(), likelihood.batch_shape_tensor()]
        return [tf.shape(part) for part in found + parts], batches

    x = tf.constant(images(4))
    if how != "eager":
        assert model.posterior(x).batch_shape == [4]
        shapes = tf.function(shapes, jit_compile=how == "xla", autograph=False)
        shapes = shapes.get_concrete_function(tf.TensorSpec([None, 3, 3]))
    z, pixels = [*lead, 4, num_nodes, 2], [*lead, 4, 3, 3]
    expected = [[*lead, num_nodes, 2], [*lead, 4], z, z, [*lead, 4], [*lead, 4], pixels, pixels, [*lead, 4]]
    expected += [[*lead, 4, num_nodes]] * 2
    found, batches = shapes(x)
    assert [part.numpy().tolist() for part in found] == expected
    assert [part.numpy().tolist() for part in batches] == [[4], [num_nodes, 2], [*lead, 4]]


def test_static_shapes_are_known_where_they_can_be(model):
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 3])], autograph=False)
    def use(x):
        posterior = model.posterior(x)
        terms = model(x)
        seen.extend([posterior.batch_shape, terms.kl_per_node().shape[-1], model.likelihood(terms.latents).event_shape])
        return terms

    use.get_concrete_function()
    assert seen[0].as_list() == [None]
    assert seen[1:] == [model.num_nodes, [3, 3]]


@pytest.mark.parametrize("sample_shape", [(), 3])
def test_log_prob_of_a_draw_is_that_of_the_forward_pass(model, images, sample_shape):
    """`log_prob` goes through the inverse of the flows."""
    posterior = model.posterior(images(4))
    z, log_prob = posterior.experimental_sample_and_log_prob(sample_shape, seed=[1, 2])
    np.testing.assert_array_equal(z, posterior.sample(sample_shape, seed=[1, 2]))
    np.testing.assert_allclose(posterior.log_prob(tf.constant(z.numpy())), log_prob, rtol=1e-4, atol=1e-3)


def test_log_prob_of_z_far_out_is_minus_infinity(build, images):
    """Not NaN, although the inverse of a flow has no float32 there; z that is NaN has a density that is NaN."""
    posterior = build(adjacency=CHAIN).posterior(images(4))
    parts = posterior.log_prob_parts(tf.constant([[1e30, 1.0], [0.5, 0.0], [np.nan, 0.0]])).numpy()
    assert (parts[:, 0] == -np.inf).all()
    assert np.isnan(parts[:, 2]).all()
    assert (posterior.log_prob(tf.constant([[1e30, 1.0], [0.5, 0.0], [0.0, 0.0]])) == -np.inf).numpy().all()


def top_down(model, n, *gated):
    return tfd.MultivariateNormalDiag(*model.graph.top_down.of_one()(n, tf.concat(gated, axis=-1))[:2])


@pytest.mark.parametrize("root_components", [0, 3])
def test_log_prob_of_any_z_against_a_joint_distribution_of_tfp(build, images, root_components):
    model, x = build(adjacency=CHAIN, root_components=root_components), images(5)
    z = 1.5 * tf.random.stateless_normal([4, 5, 3, 2], [3, 0])
    z1, z2, z3 = tf.unstack(z, axis=2)
    root = tfd.MultivariateNormalDiag(tf.zeros(2))
    if root_components:
        layer = model.graph.root
        scale = np.log1p((np.e - 1) * np.exp(layer.raw_scale.numpy())).astype("float32") + np.float32(1e-3)
        components = tfd.MultivariateNormalDiag(layer.loc.value, scale)
        root = tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(3)), components)
    joint = tfd.JointDistributionSequential([
        tfd.BatchBroadcast(root, [5]),
        lambda z3: top_down(model, 1, 0 * z3, z3),
        lambda z2, z3: top_down(model, 0, z2, 0 * z3),
    ])  # fmt: skip
    np.testing.assert_allclose(model.prior().log_prob(z), joint.log_prob([z3, z2, z1]), rtol=1e-5, atol=1e-4)

    of_each, flow = model.graph.bottom_up(model.features(x)), None
    flow = model.graph.flows.bijectors(of_each.context)
    priors, expected = [top_down(model, 0, z2, 0 * z3), top_down(model, 1, 0 * z3, z3), None], []
    for n, (z_n, prior) in enumerate(zip((z1, z2, z3), priors, strict=True)):
        own = of_each.loc[n], of_each.scale[n]
        own = own if prior is None else fuse((prior.loc, prior.scale.diag), own)
        node = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(*own), flow(n))
        expected.append(node.log_prob(tf.constant(z_n.numpy())))
    found = model.posterior(x).log_prob_parts(z)
    np.testing.assert_allclose(found, tf.stack(expected, axis=-1), rtol=1e-4, atol=1e-3)


def test_log_prob_without_edges_and_flows_in_float64(build, images):
    """Of each node's Gaussian, for z that was drawn from neither."""
    model, z = build("fc_vae", np.zeros((3, 3))), np.random.default_rng(0).normal(size=(7, 4, 3, 2)) * 2
    own = model.graph.bottom_up(model.features(images(4))).scale.numpy().astype("float64")
    fused = [(own[n] ** -2 + 1) ** -0.5 for n in range(2)]
    posterior, prior = model.posterior(images(4)), model.prior()
    for distribution, scales in (
        (prior, np.ones((3, 2))),
        (posterior, np.stack([*fused, own[2]], axis=1)),
    ):
        residual = (z - distribution.mean().numpy()) / scales
        expected = (-0.5 * residual**2 - np.log(scales) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)
        found = distribution.log_prob_parts(tf.constant(z, tf.float32))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_log_prob_parts_sum_to_log_prob_and_one_z_is_compared_with_every_image(model, images):
    prior, posterior, z = model.prior(), model.posterior(images(4)), model.prior().sample(5, seed=3)
    for distribution in (prior, posterior):
        one = distribution.log_prob(z[0])
        np.testing.assert_allclose(tf.reduce_sum(distribution.log_prob_parts(z[0]), axis=-1), one, rtol=1e-5, atol=1e-5)
    assert prior.log_prob(z[0]).shape == ()
    assert prior.log_prob(z[tf.newaxis]).shape == (1, 5)
    assert posterior.log_prob(z[0]).shape == (4,)
    every = posterior.log_prob(z[:, tf.newaxis])
    assert every.shape == (5, 4)
    for i in (0, 3):
        alone = model.posterior(images(4)[i : i + 1]).log_prob(z[:, tf.newaxis])
        np.testing.assert_allclose(every[:, i : i + 1], alone, rtol=1e-4, atol=1e-4)
    assert len(np.unique(every)) == 20


@pytest.mark.parametrize("kind", ["vae_iaf", "learned", "mixture", "prior flow"])
def test_draws_follow_the_seed(kind, build, images):
    model = build(**KINDS[kind])
    for distribution in (model.prior(), model.posterior(images(4))):
        one = distribution.sample(6, seed=1).numpy()
        np.testing.assert_array_equal(one, distribution.sample(6, seed=1))
        for other in (2, None, [1, 1], (3, 4)):
            assert (distribution.sample(6, seed=other).numpy() != one).mean() > 0.98
        unseeded = distribution.sample(6)
        assert (distribution.sample(6).numpy() != unseeded.numpy()).mean() > 0.98
        np.testing.assert_array_equal(distribution.sample(6, seed=(3, 4)), distribution.sample(6, seed=[3, 4]))
        assert len(np.unique(one)) > 0.98 * one.size


def test_the_terms_of_a_call_are_those_of_the_distributions(model, images):
    x = images(4)
    terms = model(x, seed=(1, 2), num_samples=3)
    z, posterior = tf.constant(terms.latents.numpy()), model.posterior(x)
    np.testing.assert_allclose(model.prior().log_prob_parts(z), terms.log_prior, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(posterior.log_prob_parts(z), terms.log_posterior, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(model.likelihood(z).log_prob(x), terms.log_likelihood, rtol=1e-4, atol=1e-4)
    elbo = model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - posterior.log_prob(z)
    np.testing.assert_allclose(elbo, terms.elbo(), rtol=1e-4, atol=2e-3)


def on_a_grid(width, num):
    axis = np.linspace(-width, width, num, dtype="float32")
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2), (axis[1] - axis[0]) ** 2


def smooth(model):
    """The same with networks that say half as much: no density is narrower than a grid."""
    graph = model.graph
    for variable in [*graph.bottom_up.variables, *(graph.top_down.variables if graph.top_down is not None else [])]:
        variable.assign(0.5 * variable)
    return model


@pytest.mark.parametrize(
    ("method", "sizes"),
    [("vae_iaf", {"node_dim": 2}), ("ldiaf", {"num_nodes": 2, "node_dim": 1, "edges": "all", "root_components": 2})],
)
def test_prior_and_posterior_integrate_to_one(build, images, method, sizes):
    """One node of two dimensions, and two nodes of one, on a grid."""
    model = smooth(build(method, **sizes))
    grid, area = on_a_grid(12, 481)
    z = tf.constant(grid.reshape(-1, model.num_nodes, model.node_dim))
    for log_prob in (model.prior().log_prob(z), model.posterior(images(1)).log_prob(z[:, tf.newaxis])):
        assert np.exp(log_prob.numpy().astype("float64")).sum() * area == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("root_components", [0, 2])
def test_means_of_draws_are_the_mean(build, images, root_components):
    """Of 20,000 draws, in at most 24 dimensions at 5 standard errors: a right mean fails for 2 seeds in 100,000."""
    model = build("fc_vae", np.zeros((3, 3)), root_components=root_components)
    for distribution in (model.prior(), model.posterior(images(4))):
        draws = distribution.sample(20_000, seed=1).numpy().astype("float64")
        error = draws.std(axis=0) / np.sqrt(20_000)
        assert (np.abs(draws.mean(axis=0) - distribution.mean()) < 5 * error + 1e-5).all()
        assert distribution.mean().shape == draws.shape[1:]
    posterior = model.posterior(images(4))
    np.testing.assert_array_equal(posterior.mode(), posterior.mean())
    assert (posterior.log_prob(posterior.mode()) > posterior.log_prob(posterior.sample(1000, seed=2))).numpy().all()


def test_a_mean_without_a_closed_form_is_one_sentence(build, images):
    flows, edges, learned = build("ldiaf", np.zeros((3, 3))), build("fc_vae", CHAIN), build("graph_vae")
    for model in (flows, edges, learned):
        with pytest.raises(
            NotImplementedError, match=r"^The mean of a LatentPosterior has a closed form only [^.]*\.$"
        ):
            model.posterior(images(1)).mean()
    for model in (edges, learned):
        with pytest.raises(NotImplementedError, match=r"^The mean of a LatentPrior has a closed form only [^.]*\.$"):
            model.prior().mean()
    assert flows.prior().mean().shape == (3, 2)


def test_the_likelihood_is_a_bernoulli_of_every_pixel(build, images):
    model, x = build(shape=(3, 3, 1)), images(4, (3, 3, 1))
    z = model.prior().sample((5, 4), seed=1)
    found = model.likelihood(z)
    logits = tf.reshape(model.decoder(tf.reshape(z, [20, 6])), [5, 4, 3, 3, 1])
    expected = tfd.Independent(tfd.Bernoulli(logits=logits), 3)
    assert (found.batch_shape, found.event_shape, found.dtype) == ([5, 4], [3, 3, 1], tf.float32)
    np.testing.assert_allclose(found.log_prob(x), expected.log_prob(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=1e-6)
    np.testing.assert_array_equal(found.mode(), expected.mode())
    draws = found.sample(4_000, seed=3).numpy()
    assert set(np.unique(draws)) == {0, 1}
    p = expected.mean().numpy()
    # 180 pixels at 5.5 standard errors: a right sampler fails for 1 seed in 100,000.
    assert (np.abs(draws.mean(axis=0) - p) <= 5.5 * np.sqrt(p * (1 - p) / 4_000)).all()
    of_pixels = -np.logaddexp(0, np.where(x, -1, 1) * logits.numpy().astype("float64"))
    np.testing.assert_allclose(of_pixels.sum(axis=(-3, -2, -1)), found.log_prob(x), rtol=1e-5, atol=1e-4)
    alone = model.likelihood(z[0, 0])
    assert (alone.batch_shape, alone.event_shape) == ([], [3, 3, 1])


def test_draws_have_the_density_that_is_claimed(build, images):
    """Frequencies in 36 cells of two nodes of one dimension against the integral of the density over each."""
    model = smooth(build("ldiaf", num_nodes=2, node_dim=1, edges="all"))
    grid, area = on_a_grid(12, 601)
    z = tf.constant(grid.reshape(-1, 2, 1))
    edges = np.array([-12, -2, -1, 0, 1, 2, 12]) + 0.01  # no point of the grid is on them
    for distribution, points in ((model.prior(), z), (model.posterior(images(1)), z[:, tf.newaxis])):
        density = np.exp(np.ravel(distribution.log_prob(points)).astype("float64")) * area
        expected, *_ = np.histogram2d(*grid.T, bins=[edges, edges], weights=density)
        draws = distribution.sample(40_000, seed=1).numpy().reshape(-1, 2)
        found = np.histogram2d(*draws.T, bins=[edges, edges])[0] / len(draws)
        # 5 standard errors in 36 cells: error rate 2e-5; the cells' borders are the grid's to 0.02.
        assert (np.abs(found - expected) < 5 * np.sqrt(expected / 40_000) + 5e-3).all()
        assert found.max() < 0.5


def test_draws_are_differentiable(build, images):
    model = build()
    with tf.GradientTape() as tape:
        z = model.posterior(images(4)).sample(2, seed=1)
        loss = tf.reduce_sum(z**2) + tf.reduce_sum(model.prior().log_prob(z))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if "decoder" in variable.path or variable.name == "scaled_logits":
            assert gradient is None
        else:
            assert np.isfinite(gradient).all(), variable.path
            assert np.any(gradient), variable.path


def test_a_posterior_may_be_asked_before_the_model_is_built(tiny, images):
    keras.utils.set_random_seed(0)
    model = LDIAF.from_settings(tiny())
    assert model.posterior(images(4)).sample(seed=0).shape == (4, 3, 2)
    assert model.built
