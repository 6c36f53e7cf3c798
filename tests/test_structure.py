"""What edges and nodes are worth, beside closed forms and beside what was built into the images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf import LDIAF, structure
from tf_ldiaf.errors import DataError
from tf_ldiaf.layers import AdditiveDecoder, Gates, MaskedDecoder
from tf_ldiaf.structure import ObservedNodes
from tf_ldiaf.structure.refits import Refits

ALL = [(2, 1), (3, 1), (3, 2)]
SMALL = {"encoder_units": [16], "decoder_units": [16], "node_units": [16]}


def test_the_worth_of_observed_nodes_is_the_closed_form():
    """Linear Gaussian nodes: W[n, j] = log(var(z_n | parents without j) / var(z_n | parents)) / 2.

    Three edges, each within 3 standard errors and 0.01 of it, by which the networks may miss a linear function. Were
    they exact, one seed in 120 would fail; this one passes.
    """
    rng = np.random.default_rng(0)
    z3 = rng.normal(size=12_000)
    z2 = 0.8 * z3 + 0.6 * rng.normal(size=12_000)
    z1 = 0.7 * z2 + 0.5 * rng.normal(size=12_000)  # z3 says nothing more of it
    z = np.stack([z1, z2, z3], axis=1).astype("float32")[:, :, np.newaxis]
    keras.utils.set_random_seed(0)
    model = ObservedNodes(3, 1, 0, edges=ALL, node_units=[16])
    model.compile(keras.optimizers.Adam(3e-3), kl_warmup_epochs=0, jit_compile=False)
    model.fit(z[:8000], epochs=5, batch_size=128, verbose=0)
    found = structure.edge_worth(model, z[:8000], z[8000:], num_samples=1, jit_compile=False)

    def variance(n, parents):
        if not parents:
            return cov[n, n]
        rest = np.ix_(parents, parents)
        return cov[n, n] - cov[n, parents] @ np.linalg.solve(cov[rest], cov[parents, n])

    cov = np.zeros((3, 3))
    cov[2, 2], cov[1, 1], cov[1, 2] = 1, 1, 0.8
    cov[0, 0], cov[0, 1], cov[0, 2] = 0.49 + 0.25, 0.7, 0.56
    cov = np.maximum(cov, cov.T)
    for parent, child in ALL:
        n, j = child - 1, parent - 1
        parents = list(range(child, 3))
        expected = np.log(variance(n, [k for k in parents if k != j]) / variance(n, parents)) / 2
        assert abs(found.nats[n, j] - expected) < 3 * found.stderr[n, j] + 0.01, (parent, child)
    assert np.isnan(found.nats[np.tril_indices(3)]).all()


def two_of_three():
    """Three patches of 3 x 3: the second follows the third, the first is on its own."""
    rng = np.random.default_rng(1)
    pattern = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    kinds = rng.integers(0, 2, (6000, 3))
    kinds[:, 1] = kinds[:, 2] ^ (rng.random(6000) < 0.05)
    x = np.abs(kinds[:, :, np.newaxis, np.newaxis] - pattern) ^ (rng.random((6000, 3, 3, 3)) < 0.05)
    masks = np.zeros((3, 3, 9))
    for n in range(3):
        masks[n, :, 3 * n : 3 * n + 3] = 1
    return x.transpose(0, 2, 1, 3).reshape(6000, 3, 9).astype("uint8"), masks


@pytest.fixture(scope="module")
def trained():
    x, masks = two_of_three()
    keras.utils.set_random_seed(0)
    model = LDIAF(3, 2, 0, decoder=MaskedDecoder(masks, 2, [16]), encoder_units=[32], node_units=[16, 16])
    model.compile(keras.optimizers.Adam(4e-3), kl_warmup_epochs=4, structure_epochs=16)
    model.fit(x[:5000], epochs=16, batch_size=64, verbose=0)
    return structure.with_edges(model, ALL), x


def test_the_edge_that_was_built_in_is_the_one_that_is_worth_something(trained):
    model, x = trained
    before = [weight.numpy() for weight in model.weights]
    found = structure.edge_worth(model, x[:5000], x[5000:], num_steps=80, batch_size=64, jit_compile=False)
    assert found.nats[1, 2] > max(0.2, 5 * found.stderr[1, 2])
    assert (abs(found.nats[0, 1:]) < 0.03).all()
    for weight, was in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, was)


def test_a_part_of_the_images_is_held_out_if_none_is_given(trained):
    model, x = trained
    found = structure.edge_worth(model, x[:500], num_steps=4, jit_compile=False)
    assert np.isfinite(found.nats[1, 2])
    with pytest.raises(ValueError, match="held_out must be images of 0 and 1"):
        structure.edge_worth(model, x[:500] / 2, binarization="dynamic")


def test_the_worth_of_nodes_is_that_of_draws_by_hand(trained):
    """Node by node from the layers' own outputs, with other draws: within 4 standard errors, 1 seed in 2,600 fails."""
    model, x = trained
    x = x[5000:5600]
    found = structure.node_worth(model, x, num_samples=40)
    posterior, rng = model.posterior(x), np.random.default_rng(3)
    z = posterior.sample(40, seed=9)
    log_likelihood = model.likelihood(z).log_prob(x)
    kl = posterior.log_prob_parts(z) - model.prior().log_prob_parts(z)
    np.testing.assert_allclose(found.kl, np.mean(kl, axis=(0, 1)), atol=4 * found.kl_stderr.max())
    for n in range(3):
        parents = z.numpy().copy()[:, :, 1:].reshape(40, -1, 2, 2)
        parents[:, :, :n] = 0.0  # z_{n+1} .. z_N are its parents
        flat = tf.reshape(parents, [-1, 4])
        loc, scale = np.zeros(2), np.ones(2)
        if n < 2:
            loc, scale = (np.reshape(part[n], [40, -1, 2]) for part in model.graph.top_down(flat)[:2])
        drawn = loc + scale * rng.normal(size=(40, len(x), 2))
        without = z.numpy().copy()
        without[:, :, n] = drawn
        lost = np.mean(log_likelihood - model.likelihood(tf.constant(without, tf.float32)).log_prob(x), axis=0)
        assert abs(found.reconstruction[n] - lost.mean()) < 4 * found.reconstruction_stderr[n]
    assert found.kl.shape == found.reconstruction_stderr.shape == (3,)
    assert found.kl[2] > 0.5


def test_one_image_has_no_standard_error(trained):
    model, x = trained
    found = structure.node_worth(model, x[:1], num_samples=1)
    assert np.isfinite(found.kl).all()
    assert np.isnan(found.kl_stderr).all()


def test_a_copy_with_other_edges_has_the_same_weights(trained):
    model, x = trained
    copy = structure.with_edges(model, [(3, 1)])
    assert copy.edges == [(3, 1)]
    assert copy.get_config()["edges"] == [(3, 1)]
    for name in ("encoder", "decoder", "graph"):
        ours, its = (getattr(m, name).trainable_weights for m in (model, copy))
        for one, other in zip(ours, its, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(structure.with_edges(copy, ALL).encode(x[:5]), model.encode(x[:5]))
    assert abs(copy.encode(x[:5]) - model.encode(x[:5])).numpy().max() > 1e-3
    with pytest.raises(ValueError, match="model must know the size of its images"):
        structure.with_edges(LDIAF(), [])


def test_gates_that_are_learned_become_a_graph():
    model = LDIAF(3, 2, 1, **SMALL)
    model.build((None, 4, 4))
    copy = structure.with_edges(model, model.edges)
    assert copy.gates.fixed is not None
    assert copy.edges == model.edges == ALL


def test_a_compiled_program_goes_on_with_other_edges():
    gates = Gates(3, ALL)
    probs = tf.function(gates.probs, jit_compile=True)
    assert probs().numpy().sum() == 3
    gates.fix([(3, 1)])
    np.testing.assert_array_equal(probs(), [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert gates.get_config()["edges"] == [(3, 1)]
    with pytest.raises(ValueError, match="gates that are learned"):
        Gates(3).fix([(3, 1)])


def test_each_node_draws_its_own_picture_and_the_sum_is_what_is_seen():
    rng, masks = np.random.default_rng(0), two_of_three()[1]
    z = tf.constant(rng.normal(size=(4, 6)), tf.float32)
    for decoder in (AdditiveDecoder(3, 2, (3, 9), [8]), MaskedDecoder(masks, 2, [8])):
        with tf.GradientTape() as tape:
            tape.watch(z)
            logits = decoder(z)
        by = tf.reshape(tape.batch_jacobian(logits, z), [4, 27, 3, 2]).numpy()
        np.testing.assert_allclose(np.sum(decoder.pictures(z), axis=0), logits, rtol=1e-5)
        moved = np.abs(by).max(axis=(0, 3)).T > 0  # node n moves pixel p
        seen = masks.reshape(3, 27) > 0 if isinstance(decoder, MaskedDecoder) else np.ones((3, 27), bool)
        np.testing.assert_array_equal(moved, seen)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (np.ones((2, 4)), r"masks must be \[N, H, W\] of 0 and 1\. Received: an array of shape \(2, 4\)"),
        (np.ones((0, 4, 4)), r"Received: an array of shape \(0, 4, 4\)"),
        (np.full((1, 4, 4), 0.5), "Received: other numbers"),
        (np.stack([np.ones((4, 4)), np.zeros((4, 4))]), "must give each node a pixel. Received: none for node 2"),
        (np.ones((2, 4, 4)), "must give each pixel one node. Received: 2 for the one in row 0, column 0"),
        (np.eye(4)[np.newaxis], "Received: 0 for the one in row 0, column 1"),
    ],
)
def test_masks_that_divide_no_picture_are_refused(masks, words):
    with pytest.raises(ValueError, match=words):
        MaskedDecoder(masks, 2)


def test_the_price_of_pixels_is_paid_in_training_alone():
    """Nats for each standard deviation over the batch, here of pictures that the decoder was asked for itself."""
    decoder = AdditiveDecoder(3, 2, (4, 4), [8], pixel_cost=0.3)
    z = tf.random.stateless_normal([50, 6], [0, 1])
    logits = decoder(z, training=True)
    [paid] = decoder.losses
    assert float(paid) == pytest.approx(0.3 * decoder.pictures(z).numpy().std(axis=1).sum(), rel=2e-3)
    np.testing.assert_array_equal(decoder(z), logits)
    assert decoder.losses == []
    again = AdditiveDecoder.from_config(decoder.get_config())
    assert (again.pixel_cost, again.units, again.image_shape) == (0.3, (8,), (4, 4))
    again.pixel_cost = 0.0
    again(z, training=True)
    assert again.losses == []
    with pytest.raises(ValueError, match="pixel_cost must be at least 0"):
        AdditiveDecoder(3, 2, (4, 4), pixel_cost=-1.0)


def test_weights_that_are_loaded_leave_the_graph_alone(tmp_path):
    one, other = (LDIAF(3, 2, 0, edges=edges, **SMALL) for edges in ([(3, 1)], ALL))
    for model in (one, other):
        model.build((None, 3, 3))
    one.save_weights(tmp_path / "one.weights.h5")
    other.load_weights(tmp_path / "one.weights.h5")
    assert other.edges == ALL
    other.set_weights(one.get_weights())
    assert other.edges == other.get_config()["edges"] == ALL


def test_every_refit_begins_anew_and_a_removal_goes_on():
    x = np.random.default_rng(0).integers(0, 2, (128, 3, 3))
    refits = Refits(LDIAF_with_all(), x, x[:50], num_steps=6, batch_size=64, num_samples=3, jit_compile=False)
    first = refits.worth((2, 1))
    assert refits.worth((3, 1)) != first
    assert refits.worth((2, 1)) == first
    refits.remove((3, 1))
    assert refits.edges == [(2, 1), (3, 2)]
    assert refits.worth((2, 1)) != first


def test_a_refit_begins_with_the_moving_means_and_dropouts_that_it_began_with():
    layers = [keras.Input((9,)), keras.layers.BatchNormalization(), keras.layers.Dense(4), keras.layers.Dropout(0.5)]
    model = LDIAF(2, 2, 0, edges=[(2, 1)], encoder=keras.Sequential(layers), decoder_units=[8], node_units=[8])
    x = np.random.default_rng(0).integers(0, 2, (64, 3, 3))
    model.build((None, 3, 3))
    refits = Refits(model, x, x[:20], num_steps=3, batch_size=32, num_samples=2, jit_compile=False)
    first = refits.elbo([(2, 1)])
    refits.elbo([])
    np.testing.assert_array_equal(refits.elbo([(2, 1)]), first)


def test_only_the_edge_that_was_built_in_is_left(trained):
    model, x = trained
    settings = {"num_steps": 150, "batch_size": 64, "jit_compile": False}
    before, steps = [weight.numpy() for weight in model.weights], []
    found = structure.remove_edges(
        model, x[:5000], x[5000:], **settings, on_measured=lambda all: steps.append(len(all))
    )
    assert found.edges == [(3, 2)]
    assert [one[:2] for one in found.last] != [(3, 2)]
    assert {one[:2] for one in found.last} == set(ALL)
    assert found.last[-1][:2] == (3, 2)
    assert found.last[-1].nats > 0.2
    # Three edges are measured; one of z1's goes, then its other one is measured again, and goes.
    assert [one.num_edges for one in found.history] == [3, 3, 3, 2]
    assert steps == [1, 2, 3, 4]
    again = structure.remove_edges(model, x[:5000], x[5000:], **settings, history=found.history[:3])
    assert again == found
    for weight, was in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, was)


def test_a_graph_without_edges_has_nothing_to_remove(trained):
    model, x = trained
    for one in (structure.with_edges(model, []), LDIAF(1, 2, 0, **SMALL)):
        if not one.built:
            one.build((None, *x.shape[1:]))
        assert structure.remove_edges(one, x[:100]) == ([], [], [])


def test_a_node_without_parents_has_a_standard_normal_prior():
    model = LDIAF(3, 2, 0, edges=[(3, 1)], **SMALL)
    model.build((None, 4, 4))
    for weight in model.graph.top_down.trainable_weights:
        weight.assign_add(tf.ones_like(weight))
    z = np.random.default_rng(0).normal(size=(5, 3, 2)).astype("float32")
    parts = model.prior().log_prob_parts(z).numpy()
    expected = -0.5 * (z**2).sum(axis=-1) - np.log(2 * np.pi)
    np.testing.assert_allclose(parts[:, 1:], expected[:, 1:], rtol=1e-5)
    assert abs(parts[:, 0] - expected[:, 0]).min() > 0.1


def LDIAF_with_all():  # noqa: N802
    model = LDIAF(3, 2, 2, edges=ALL, root_components=3, flow_units=[8], context_dim=4, **SMALL)
    model.build((None, 3, 3))
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: structure.ObservedNodes(3, 1), "edges must be pairs"),
        (lambda: structure.ObservedNodes(3, 2, edges=ALL).build((None, 3, 1)), r"images of shape \(3, 2\)"),
        (lambda: AdditiveDecoder(3, 2, (4, 4)).build((None, 5)), r"latents \[B, 6\]. Received: \(None, 5\)"),
        (
            lambda: LDIAF(2, 3, decoder=AdditiveDecoder(3, 2, (4, 4)), **SMALL).build((None, 4, 4)),
            r"decoder must be one of 2 nodes of 3 dimensions and images \(4, 4\)\. Received: 3 of 2 and \(4, 4\)",
        ),
        (
            lambda: LDIAF(2, 3, decoder=AdditiveDecoder(2, 3, (2, 8)), **SMALL).build((None, 4, 4)),
            r"and images \(4, 4\)\. Received: 2 of 3 and \(2, 8\)",
        ),
        (lambda: structure.node_worth(LDIAF(), np.zeros((2, 4, 4))), "model must know the size of its images"),
        (
            lambda: structure.edge_worth(LDIAF_with_all(), np.zeros((1, 3, 3))),
            "x and held_out must have an image to train on, and two",
        ),
        (
            lambda: structure.edge_worth(LDIAF_with_all(), np.zeros((4, 3, 3)), np.full((2, 3, 3), 255)),
            "pixels that are 0 or 1",
        ),
        (lambda: structure.node_worth(LDIAF_with_all(), np.full((2, 3, 3), np.nan)), "pixels that are 0 or 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, words):
    with pytest.raises((ValueError, DataError), match=words):
        make()
