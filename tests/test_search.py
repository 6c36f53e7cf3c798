"""The search for an order of nodes: beside graphs that were built in, and beside what renumbering must not change."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf import LDIAF, structure
from tf_ldiaf.errors import DataError
from tf_ldiaf.layers import AdditiveDecoder, MaskedDecoder
from tf_ldiaf.structure import orders

FEW = {"num_steps": 400, "learning_rate": 5e-3}
NARROW = {"encoder_units": [8], "decoder_units": [6], "node_units": [8], "flow_units": [8], "context_dim": 3}


def chain(numbers, num=3000, others=0):
    """Draws in which the second of the three nodes `numbers` follows the first, and the third follows the second.

    Each says |z| of the one before, so that no other direction is Gaussian. Further nodes are on their own.
    """
    rng = np.random.default_rng(5)
    z = rng.normal(size=(num, 3 + others, 1))
    first, second, third = (number - 1 for number in numbers)
    z[:, second] = 1.5 * np.abs(z[:, first]) + 0.4 * z[:, second]
    z[:, third] = 1.5 * np.abs(z[:, second]) + 0.4 * z[:, third]
    return z


def test_the_order_that_was_built_in_is_found():
    found = structure.best_order(chain((1, 3, 2)), **FEW)
    assert found[:2] == ([2, 3, 1], [(1, 3), (3, 2)])
    assert found.is_exact
    assert found.lead > 2 * found.lead_stderr > 0


def test_one_step_at_a_time_finds_it_too(monkeypatch):
    monkeypatch.setattr(orders, "MOST_NODES", 3)
    with pytest.warns(UserWarning, match="at most 3 nodes. Received: 4"):
        found = structure.best_order(chain((1, 3, 2), others=1), **FEW)
    assert not found.is_exact
    assert found.edges == [(1, 3), (3, 2)]
    assert [number for number in found.nodes if number != 4] == [2, 3, 1]
    assert found.lead > 0


def test_a_linear_dependence_has_no_direction():
    """The lead is the difference of two equal numbers: within 4 standard errors and 0.01 nats, which networks miss."""
    rng = np.random.default_rng(2)
    first = rng.normal(size=(6000, 1))
    z = np.stack([first, 0.8 * first + 0.6 * rng.normal(size=(6000, 1))], axis=1)
    found = structure.best_order(z, **FEW)
    assert len(found.edges) == 1
    assert abs(found.lead) < 4 * found.lead_stderr + 0.01


def test_nodes_that_know_nothing_of_each_other_have_no_edges_and_no_lead():
    found = structure.best_order(np.random.default_rng(0).normal(size=(2000, 3, 2)), **FEW)
    assert (found.nodes, found.edges) == ([1, 2, 3], [])
    assert np.isnan(found.lead)
    assert structure.best_order(np.ones((10, 1, 2)), num_steps=2)[:2] == ([1], [])


def model_of(decoder, num_flow_steps=2):
    keras.utils.set_random_seed(1)
    model = LDIAF(3, 2, num_flow_steps, edges=[], decoder=decoder, **NARROW)
    model.build((None, 3, 3))
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(0.3 * rng.normal(size=weight.shape))
    return model


MASKS = np.arange(9).reshape(1, 3, 3) // 3 == np.arange(3).reshape(3, 1, 1)


@pytest.mark.parametrize("decoder", ["additive", MaskedDecoder(MASKS, 2, [6])])
def test_other_numbers_change_nothing_but_the_order(decoder, images, tmp_path):
    model, x, nodes = model_of(decoder), images(5), [3, 1, 2]
    copy = structure.renumbered(model, nodes, [(3, 1)])
    assert copy.edges == [(3, 1)]
    order = [number - 1 for number in nodes]
    ours, its = (m.graph.bottom_up(m.features(x)) for m in (model, copy))
    for one, other in zip(ours, its, strict=True):
        np.testing.assert_allclose(other, one.numpy()[order], rtol=1e-5)
    z = np.random.default_rng(3).normal(size=(5, 3, 2)).astype("float32")
    np.testing.assert_allclose(copy.likelihood(z[:, order]).log_prob(x), model.likelihood(z).log_prob(x), rtol=1e-5)
    ours, its = (m.graph.flows.bijectors(parts[2]) for m, parts in ((model, ours), (copy, its)))
    for n in range(3):
        np.testing.assert_allclose(its(n).forward(z[:, 0]), ours(order[n]).forward(z[:, 0]), rtol=1e-4, atol=1e-5)
    copy.save(tmp_path / "copy.keras")
    again = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(again.likelihood(z).log_prob(x), copy.likelihood(z).log_prob(x))


def test_a_model_is_renumbered_by_the_order_of_its_draws(monkeypatch, images):
    """The draws that the search sees are the posterior's."""
    model, x = model_of("additive", 0), images(400)
    seen = []

    def order_of(z, held_out, **settings):
        seen.extend([z, held_out, settings])
        return structure.Order([2, 3, 1], [(1, 3), (3, 2)], 0.5, 0.1, True)

    monkeypatch.setattr(orders, "best_order", order_of)
    found = structure.search(model, x[:300], x[300:], seed=4, num_steps=7)
    assert (found.edges, found.nodes, found.lead, found.is_exact) == ([(2, 1), (3, 2)], [2, 3, 1], 0.5, True)
    assert found.model.edges == found.edges
    assert seen[2] == {"seed": 4, "num_steps": 7}
    for drawn, part in ((seen[0], x[:300]), (seen[1], x[300:])):
        draws = model.posterior(part).sample(500, seed=1).numpy()
        error = (drawn - draws.mean(axis=0)) / draws.std(axis=0)
        assert drawn.shape == (len(part), 3, 2)
        # 600 numbers or more: mean and standard deviation within 5 standard errors. One seed in 900,000 fails.
        assert abs(np.mean(error)) < 5 / error.size**0.5
        assert abs(np.std(error) - 1) < 5 / (2 * error.size) ** 0.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: structure.search(LDIAF(decoder="additive"), np.zeros((9, 4, 4))), "model must know the size"),
        (lambda: structure.search(model_of(None), np.zeros((9, 3, 3))), "model must have a decoder in which each node"),
        (
            lambda: structure.search(structure.with_edges(model_of("additive"), [(3, 1)]), np.zeros((9, 3, 3))),
            "no edges",
        ),
        (lambda: structure.renumbered(model_of("additive"), [1, 1, 2], []), "1 to 3, each once. Received: .1, 1, 2"),
        (lambda: structure.best_order(np.zeros((9, 2, 1)), edge_cost=np.nan), "edge_cost"),
        (lambda: structure.search(model_of("additive"), np.full((9, 3, 3), 7)), "pixels that are 0 or 1"),
        (lambda: structure.search(model_of("additive"), np.zeros((2, 3, 3))), "two to measure an error with"),
        (
            lambda: structure.best_order(np.zeros((9, 3))),
            r"z and held_out must be draws \[n, N, D\]. Received: .*\(9, 3\)",
        ),
        (lambda: structure.best_order(np.zeros((9, 2, 1)), np.zeros((9, 3, 1))), r"Received: .*\(9, 3, 1\)"),
        (lambda: structure.best_order(np.full((9, 2, 1), np.nan)), "z must be finite"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, words):
    with pytest.raises((ValueError, DataError), match=words):
        make()


def test_pictures_of_nodes_follow_their_numbers():
    model = model_of("additive")
    z = tf.random.stateless_normal([4, 6], [0, 1])
    copy = structure.renumbered(model, [2, 3, 1], [])
    assert isinstance(copy.decoder, AdditiveDecoder)
    permuted = tf.reshape(tf.gather(tf.reshape(z, [4, 3, 2]), [1, 2, 0], axis=1), [4, 6])
    np.testing.assert_allclose(copy.decoder.pictures(permuted), tf.gather(model.decoder.pictures(z), [1, 2, 0]))
