"""The model against numpy, analytic KL terms, enumeration of all images, and Keras's contract."""

import inspect
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tf_ldiaf import LDIAF, Config
from tf_ldiaf.model import estimator
from tf_ldiaf.probability.bounds import Terms
from tf_ldiaf.probability.gaussians import fuse

tfd = tfp.distributions
METHODS = ["vae", "vae_iaf", "fc_vae", "graph_vae", "ldiaf"]
CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def numpy_mlp(network, x):
    *hidden, (kernel, bias) = [[w.numpy().astype("float64") for w in layer.weights] for layer in network.layers]
    for k, b in hidden:
        x = x @ k + b
        x = np.where(x > 0, x, np.expm1(x))
    return x @ kernel + bias


def numpy_gaussian(networks, n, x):
    """loc and scale of node n; x are all inputs that a node can have, [B, inputs]."""
    (kernel, bias), *rest = [(layer.kernel.numpy()[n], layer.bias.numpy()[n]) for layer in networks.stack]
    outputs = x @ kernel.astype("float64") + bias
    for kernel, bias in rest:
        outputs = np.where(outputs > 0, outputs, np.expm1(outputs)) @ kernel.astype("float64") + bias
    loc, raw = np.split(outputs, 2, axis=-1)
    return loc, np.log1p(np.exp(raw + np.log(np.e - 1))) + 1e-3


def test_with_shut_gates_and_no_flow_it_is_a_mean_field_vae(build, images):
    """Every term recomputed in float64 from the weights; the KL also by its analytic expectation."""
    model = build("fc_vae", np.zeros((3, 3)))
    x = images(4)
    terms = model(x, seed=(1, 2), num_samples=4_000)
    z = terms.latents.numpy().astype("float64")
    codes, innovations = model.codes_and_innovations(model.features(x))
    np.testing.assert_array_equal(codes, model.encode(x))
    features = numpy_mlp(model.encoder, x.reshape(4, 9))
    features = np.where(features > 0, features, np.expm1(features))
    divergence = 0
    for n in range(3):
        loc, scale = numpy_gaussian(model.graph.bottom_up, n, features)
        prior_loc, prior_scale = np.zeros((1, 2)), np.ones((1, 2))
        if n < 2:
            precision = scale**-2 + prior_scale**-2
            loc, scale = (loc / scale**2 + prior_loc / prior_scale**2) / precision, precision**-0.5
        log_prior = stats.norm.logpdf(z[:, :, n], prior_loc, prior_scale).sum(axis=-1)
        log_posterior = stats.norm.logpdf(z[:, :, n], loc, scale).sum(axis=-1)
        np.testing.assert_allclose(terms.log_prior[:, :, n], log_prior, atol=1e-3)
        np.testing.assert_allclose(terms.log_posterior[:, :, n], log_posterior, atol=1e-3)
        np.testing.assert_allclose(codes[:, n], loc, atol=1e-5)
        np.testing.assert_allclose(innovations[:, n], loc - prior_loc, atol=1e-5)
        posterior, prior = tfd.MultivariateNormalDiag(loc, scale), tfd.MultivariateNormalDiag(prior_loc, prior_scale)
        divergence += posterior.kl_divergence(prior).numpy()
    logits = numpy_mlp(model.decoder, z.reshape(-1, 6))
    log_likelihood = np.where(np.tile(x.reshape(4, 9), (4_000, 1)) > 0, -logits, logits)
    np.testing.assert_allclose(
        terms.log_likelihood, -np.logaddexp(0, log_likelihood).sum(axis=-1).reshape(4_000, 4), atol=1e-3
    )
    kl = terms.kl_per_node().numpy().sum(axis=-1)
    # 4 images, 5 standard errors: a right model fails for 2 seeds in a million.
    assert (np.abs(kl.mean(axis=0) - divergence) < 5 * kl.std(axis=0) / np.sqrt(4_000)).all()
    assert divergence.min() > 0.1


def test_terms_sum_to_the_joint_and_to_the_inverse_path_of_the_posterior(build, images):
    """TFP's joint distribution over z_3, z_2, z_1, x; and log q of the draw by inverting each flow."""
    model = build(adjacency=CHAIN)
    x = images(5)
    terms = model(x, seed=(3, 4))
    z1, z2, z3 = (tf.constant(part) for part in tf.unstack(terms.latents[0], axis=1))

    def top_down(n, *gated):
        """Of z_1 and z_2 given z_2 and z_3, gated."""
        return tfd.MultivariateNormalDiag(*model.graph.top_down.of_one()(n, tf.concat(gated, axis=-1))[:2])

    joint = tfd.JointDistributionSequential([
        tfd.MultivariateNormalDiag(tf.zeros([5, 2])),
        lambda z3: top_down(1, 0 * z3, z3),
        lambda z2, z3: top_down(0, z2, 0 * z3),
        lambda z1, z2, z3: tfd.Independent(tfd.Bernoulli(logits=model.decoder(tf.concat([z1, z2, z3], axis=-1))), 1),
    ])  # fmt: skip
    log_joint = joint.log_prob([z3, z2, z1, x.reshape(5, 9)])
    np.testing.assert_allclose(
        terms.log_likelihood[0] + tf.reduce_sum(terms.log_prior[0], axis=-1), log_joint, atol=1e-4
    )
    bottom_up = model.graph.bottom_up(model.features(x))
    flow = model.graph.flows.bijectors(bottom_up.context)
    for n, (z, prior) in enumerate([(z1, top_down(0, z2, 0 * z3)), (z2, top_down(1, 0 * z3, z3)), (z3, None)]):
        posterior = bottom_up.loc[n], bottom_up.scale[n]
        if prior is not None:
            posterior = fuse((prior.loc, prior.scale.diag), posterior)
        z_0, log_det = flow(n).inverse(z), flow(n).inverse_log_det_jacobian(z, event_ndims=1)
        log_posterior = tfd.MultivariateNormalDiag(*posterior).log_prob(z_0) + log_det
        np.testing.assert_allclose(terms.log_posterior[0, :, n], log_posterior, atol=1e-3)
    np.testing.assert_allclose(terms.elbo()[0], log_joint - tf.reduce_sum(terms.log_posterior[0], axis=-1), atol=1e-4)


def test_probabilities_of_all_images_sum_to_one_and_are_those_of_samples(build):
    """16 images of 2 x 2. Any slip in prior, posterior, flow or determinant moves the total away from 1."""
    model = build(adjacency=CHAIN, shape=(2, 2), node_dim=1)
    # A broad posterior, so that the importance weights have a finite variance.
    model.graph.bottom_up.stack[-1].bias.assign_add(np.tile([0.0, 5.0, 0.0, 0.0, 0.0, 0.0], (3, 1, 1)))
    model.graph.flows.stack[-1].bias.assign_add(np.tile([0.0, 3.0], (6, 1, 1)))
    x = np.array(list(itertools.product([0, 1], repeat=4)), "float32").reshape(16, 2, 2)
    weights = np.exp(model(x, seed=(5, 6), num_samples=20_000).elbo().numpy())
    probability, variance = weights.mean(axis=0), weights.var(axis=0) / 20_000
    assert np.sqrt(variance.sum()) < 0.01
    assert weights.max() < 300  # no rare draw decides
    # 17 comparisons at 5 standard errors: a right model fails for 1 seed in 100,000.
    assert abs(probability.sum() - 1) < 5 * np.sqrt(variance.sum())
    samples = model.sample(20_000, seed=7)["images"].numpy().reshape(-1, 4) @ [8, 4, 2, 1]
    frequency = np.bincount(samples.astype(int), minlength=16) / 20_000
    assert (np.abs(frequency - probability) < 5 * np.sqrt(variance + probability / 20_000)).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_trainable_variable_gets_a_finite_gradient(build, images, method):
    model = build(method)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(model(images(16), training=True).elbo())
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient), variable.path
        if variable.name == "scaled_logits":
            np.testing.assert_array_equal(gradient.numpy() != 0, np.triu(np.ones((3, 3), bool), 1))
    assert (model.gates.fixed is None) == (method in ("graph_vae", "ldiaf"))


def test_terms_have_the_shapes_of_their_axes(build, images):
    terms = build()(images(5), num_samples=7)
    assert (terms.log_likelihood.shape, terms.elbo().shape) == ((7, 5),) * 2
    assert (terms.log_prior.shape, terms.log_posterior.shape, terms.kl_per_node().shape) == ((7, 5, 3),) * 3
    assert terms.latents.shape == (7, 5, 3, 2)
    assert len(np.unique(terms.log_likelihood)) == 35


@pytest.mark.parametrize("method", METHODS)
def test_uses_of_a_model_have_their_shapes_and_follow_the_seed(build, images, method):
    model, x = build(method, shape=(3, 3, 1)), images(4, (3, 3, 1))
    code = model.encode(x)
    assert code.shape == (4, model.num_nodes, 2)
    np.testing.assert_array_equal(code, model.encode(x))
    for use in (lambda seed: model.sample(np.int64(4), seed), lambda seed: model.reconstruct(x, seed)):
        drawn, again, other = use(1), use(1), use(2)
        assert (drawn["probs"].shape, drawn["images"].shape) == (x.shape, x.shape)
        assert set(np.unique(drawn["images"])) == {0, 1}
        assert 0 <= np.min(drawn["probs"]) < np.max(drawn["probs"]) <= 1
        for part in ("probs", "images"):
            np.testing.assert_array_equal(drawn[part], again[part])
            assert (drawn[part].numpy() != other[part].numpy()).any()
    np.testing.assert_array_equal(model.log_likelihood(x, 3, seed=1), model.log_likelihood(x, 3, seed=1))
    assert (model.log_likelihood(x, 3, seed=1).numpy() != model.log_likelihood(x, 3, seed=2).numpy()).all()


def test_learned_gates_are_relaxed_in_training_and_hard_otherwise(build, images):
    model = build("graph_vae")
    relaxed = model.graph.draw_gates([5, 10], 0.7, (0, 1)).numpy()
    assert relaxed.shape == (3, 5, 10, 2)
    possible = np.triu(np.ones((3, 3)), 1)[:, np.newaxis, np.newaxis, 1:]
    assert ((relaxed > 0) & (relaxed < 1) == (possible == 1)).all()
    np.testing.assert_array_equal(model.graph.draw_gates([5, 10])[:, 0, 0], model.gates.adjacency()[:, 1:])
    hard, drawn = (model(images(4), seed=1, training=training).latents for training in (False, True))
    model.temperature.assign(0.2)
    np.testing.assert_array_equal(model(images(4), seed=1).latents, hard)
    assert (model(images(4), seed=1, training=True).latents != drawn).numpy().any()
    fixed = build("graph_vae", CHAIN).graph.draw_gates([5, 10], 0.7, (0, 1))
    np.testing.assert_array_equal(fixed[:, 0, 0], CHAIN[:, 1:])


def test_bounds_are_the_means_of_the_terms(build, images):
    model, x = build(), images(3)
    found = model.bounds(x, 5, seed=9)
    terms = model.terms(x, model.features(x), [9, 4], 5)
    elbo = terms.elbo().numpy().astype("float64")
    np.testing.assert_allclose(found["elbo"], elbo.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["log_likelihood"], np.log(np.exp(elbo).mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], terms.log_likelihood.numpy().mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["kl_per_node"], terms.kl_per_node().numpy().mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["log_likelihood"], model.log_likelihood(x, 5, seed=9))
    one = model.bounds(x, 1)
    np.testing.assert_allclose(one["elbo"], one["log_likelihood"], rtol=1e-5)


@pytest.mark.parametrize(("rows", "chunk"), [(6, 3), (8, 4), (2, 1), (1, 1), (100, 7)])
def test_bounds_use_exactly_the_draws_asked_for(build, images, monkeypatch, rows, chunk):
    """Seven draws of two images, whose terms tell the draw's place, whatever the seed."""
    model, x = build("vae"), images(2)

    def numbered(x, features, seed, num, first):
        assert int(num) == chunk
        places = tf.tile(tf.cast(first[0] + tf.range(num), tf.float32)[:, tf.newaxis], [1, 2])
        return Terms(places, -places[..., tf.newaxis], 0.5 + places[..., tf.newaxis], None)

    monkeypatch.setattr(estimator, "_ROWS_PER_PASS", rows)
    monkeypatch.setattr(model, "terms", numbered)
    places, found = np.arange(7.0), model.bounds(x, 7)
    np.testing.assert_allclose(found["reconstruction"], [places.mean()] * 2, rtol=1e-5)
    np.testing.assert_allclose(found["kl_per_node"], [[2 * places.mean() + 0.5]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], [-places.mean() - 0.5] * 2, rtol=1e-5)
    np.testing.assert_allclose(found["log_likelihood"], [np.log(np.exp(-places - 0.5).mean())] * 2, rtol=1e-5)


def test_bounds_do_not_depend_on_how_samples_and_images_are_taken(build, images, monkeypatch):
    model, x = build("ldiaf"), images(5)
    whole = model.bounds(x, 200)
    late = model.bounds(x[2:], 200, first_image=2)
    monkeypatch.setattr(estimator, "_ROWS_PER_PASS", 64)
    chunked = model.bounds(x, 200)
    for name, value in whole.items():
        np.testing.assert_allclose(chunked[name], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(late[name], value[2:], rtol=1e-5, atol=1e-5)


def test_samples_of_different_chunks_are_different(build, images, monkeypatch):
    model, x = build("fc_vae"), images(3)
    monkeypatch.setattr(estimator, "_ROWS_PER_PASS", 6)
    assert (model.bounds(x, 4)["elbo"].numpy() != model.bounds(x, 2)["elbo"].numpy()).all()


def test_validation_does_not_depend_on_the_size_of_batches(build, images):
    model, x = build("ldiaf"), images(10)
    model.compile(jit_compile=False)
    found = [model.evaluate(x, batch_size=size, return_dict=True, verbose=0) for size in (10, 10, 4, 3)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_encoder_runs_once_for_all_importance_samples(build, images, monkeypatch):
    model, x = build("vae"), tf.constant(images(4))
    calls = []
    monkeypatch.setattr(model, "encoder", lambda x, training, encoder=model.encoder: calls.append(1) or encoder(x))
    monkeypatch.setattr(estimator, "_ROWS_PER_PASS", 8)
    eager = model.bounds(x, 9)
    assert len(calls) == 1
    compiled = tf.function(lambda x: model.bounds(x, 9)).get_concrete_function(tf.TensorSpec([None, 3, 3]))
    assert len(calls) == 2
    for name, value in compiled(x).items():
        np.testing.assert_allclose(value, eager[name], rtol=1e-5, atol=1e-5)


def test_images_of_another_size_are_refused(tiny):
    model = LDIAF.from_settings(tiny("vae"))
    model.build((None, 3, 3))
    with pytest.raises(ValueError, match=r"shape \(3, 3\). Received: \(2, 2\)"):
        model.encode(np.zeros((9, 2, 2), "float32"))
    unbuilt = LDIAF.from_settings(tiny("vae"))
    for name, arguments in {"sample": [1], "prior": [], "likelihood": [tf.zeros([1, 1, 2])]}.items():
        with pytest.raises(ValueError, match=f"^{name} needs a model that knows the size of its images. Received: "):
            getattr(unbuilt, name)(*arguments)


def test_a_bound_needs_a_sample(tiny):
    model = LDIAF.from_settings(tiny("vae"))
    with pytest.raises(ValueError, match=r"num_importance_samples must be at least 1, a whole number\. Received: 0"):
        model.log_likelihood(np.zeros((2, 3, 3), "float32"), 0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_dynamic_binarisation_is_drawn_afresh_in_every_step(build, dtype):
    model = build("vae")
    model.compile(binarization="dynamic", jit_compile=False)
    seen, encoded = [], model.encoded
    model.encoded = lambda x, training=False: seen.append(np.array(x)) or encoded(x)
    levels = np.linspace(0, 255, 9).round().reshape(1, 3, 3).repeat(500, axis=0)
    x = levels.astype("uint8") if dtype == "uint8" else (levels / 255).astype("float32")
    for _ in range(4):
        model.train_step(tf.constant(x))
    assert set(np.unique(seen)) == {0, 1}
    assert len({part.tobytes() for part in seen}) == 4
    p = levels[0] / 255
    # 6 standard errors in 9 pixels: a false alarm has probability below 1e-7.
    assert (np.abs(np.mean(seen, axis=(0, 1)) - p) <= 6 * np.sqrt(p * (1 - p) / 2000)).all()


def defaults(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def test_a_default_has_one_home():
    """What a model and its training can be told has the default of the settings."""
    config, model, training = Config(), defaults(LDIAF.__init__), defaults(LDIAF.compile)
    own = {"edges": None, "encoder": None, "decoder": None, "frozen": ()}
    assert {name: model.pop(name) for name in own} == own
    kerass = {"optimizer": "adam", "binarization": "none", "jit_compile": "auto"}
    assert {name: training.pop(name) for name in kerass} == kerass
    for name, value in (model | training).items():
        assert value == getattr(config, name), name
    assert {"num_nodes", "node_dim", "num_flow_steps", "initial_gate_prob"} < set(model)
    assert {"seed", "clip_norm", "structure_epochs", "on_nonfinite"} < set(training)


def test_the_settings_of_a_config_are_those_of_its_model(tiny):
    """Each departs from the default."""
    changes = {"num_nodes": 4, "node_dim": 3, "num_flow_steps": 1, "root_components": 2, "initial_gate_prob": 0.6}
    changes |= {"encoder_units": (7, 6), "decoder_units": (5,), "node_units": (4,), "channels": (3, 2)}
    changes |= {"flow_units": (9,), "context_dim": 11, "residual_blocks": 1}
    found = LDIAF.from_settings(Config(**changes)).get_config()
    assert {name: found[name] for name in changes} == changes
    assert found["edges"] is None
    assert LDIAF.from_settings(Config(**changes), [(4, 1)]).get_config()["edges"] == [(4, 1)]
    del changes["initial_gate_prob"]
    assert LDIAF.from_settings(Config(edges="3-1,2-1", **changes)).edges == [(2, 1), (3, 1)]
