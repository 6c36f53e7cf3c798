"""Gates: who may depend on whom, and how relaxed draws are distributed."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf import Config
from tf_ldiaf.layers.gates import (
    _LARGEST_LOGIT,
    _RATE,
    Gates,
    adjacency_of,
    all_gates_open,
    edges_of,
    most_probable_graph,
)


def make(num_nodes=4, logits=None, **kwargs):
    gates = Gates(num_nodes, **{"initial_prob": 0.5} | kwargs)
    gates.build()
    if logits is not None:
        gates.scaled_logits.assign(np.broadcast_to(logits, (num_nodes, num_nodes)) / _RATE)
    return gates


def test_only_later_nodes_can_be_parents():
    """Every matrix is [child, parent]: row n is zero up to and with column n."""
    gates = make(logits=3.0)
    open_pairs = {(child, parent) for child, parent in itertools.product(range(4), repeat=2) if parent > child}
    for matrix in (all_gates_open(4), gates.probs(), gates.adjacency(), *gates.sample((1, 5), 0.5, [0, 0])[0]):
        assert set(map(tuple, np.argwhere(np.asarray(matrix) != 0).tolist())) == open_pairs


def test_edges_are_parent_and_child_and_the_matrix_is_child_and_parent():
    np.testing.assert_array_equal(adjacency_of(3, [(3, 1), (3, 2)]), [[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    assert edges_of([[0, 0, 1], [0, 0, 1], [0, 0, 0]]) == [(3, 1), (3, 2)]
    assert edges_of(adjacency_of(2, [])) == []


def test_probability_at_the_start_is_the_given_one():
    probs = make(initial_prob=0.3).probs()
    np.testing.assert_allclose(probs, 0.3 * all_gates_open(4), atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.01])
def test_draws_open_as_often_as_gate_probs_say(temperature):
    logits = np.linspace(-3, 3, 16).reshape(4, 4)
    gates = make(logits=logits)
    draws = gates.sample((1, 20_000), temperature, [1, 2]).numpy()[0]
    assert draws.min() >= 0
    assert draws.max() <= 1
    probs = all_gates_open(4) / (1 + np.exp(-logits))
    standard_error = np.sqrt(probs * (1 - probs) / 20_000)
    # P(c > 1/2) is the probability at every temperature; c itself has that mean only at a low one (bias < 1e-4
    # at 0.01). Six gates, 5 standard errors: a right sampler fails for 4 seeds in a million.
    assert (np.abs((draws > 0.5).mean(axis=0) - probs) <= 5 * standard_error).all()
    if temperature == 0.01:
        assert (np.abs(draws.mean(axis=0) - probs) <= 5 * standard_error + 1e-4).all()


def test_draws_become_hard_as_temperature_falls():
    gates = make(logits=0.2)
    softness = [
        np.minimum(c, 1 - c).max() for c in (gates.sample((5, 100), t, [0, 0]).numpy() for t in (1.0, 0.1, 1e-6))
    ]
    assert softness[0] > 0.3
    assert softness[2] < 1e-6


def test_draws_are_independent_between_rows_and_gates_and_a_function_of_the_seed():
    gates = make(logits=0.0)
    draws = gates.sample((1, 4_000), 1.0, [3, 4]).numpy()[0]
    np.testing.assert_array_equal(draws, gates.sample((1, 4_000), 1.0, [3, 4])[0])
    assert (draws != gates.sample((1, 4_000), 1.0, [3, 5])[0].numpy())[:, 0, 1].all()
    columns = draws[:, *np.triu_indices(4, 1)]
    correlation = np.corrcoef(np.concatenate([columns[:-1], columns[1:]], axis=1).T)
    # 66 correlations of standard error 1/63, 5 of them: error rate 4e-5.
    assert np.abs(correlation - np.eye(12)).max() < 5 / np.sqrt(4_000)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_gradients_are_finite_for_all_logits(temperature):
    for logit in (*np.linspace(-80, 80, 41), 1e-30):
        gates = make(2, logit)
        with tf.GradientTape() as tape:
            c = gates.sample((1, 64), temperature, [0, 0])
            loss = tf.reduce_sum(c**2) + tf.reduce_sum(gates.probs())
        gradient = tape.gradient(loss, gates.scaled_logits.value).numpy()
        assert np.isfinite(gradient).all(), logit
        assert gradient[[0, 1, 1], [0, 0, 1]].tolist() == [0, 0, 0]
        if abs(logit) < 5:
            assert gradient[0, 1] > 0


def test_adjacency_is_the_most_probable_graph_and_a_half_is_open():
    logits = np.zeros((4, 4))
    logits[0, 1], logits[0, 2], logits[1, 3] = -1e-3, 1e-3, -40
    expected = [[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    gates = make(logits=logits)
    np.testing.assert_array_equal(gates.adjacency(), expected)
    np.testing.assert_array_equal(most_probable_graph(gates.probs()), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_decision_can_be_reversed(sign):
    """A thousand steps one way leave the logits at their bound, from which steps the other way bring them back."""
    gates = make(3)
    optimizer = keras.optimizers.Adam(0.01)
    variable = gates.scaled_logits
    for _ in range(1000):
        optimizer.apply([sign * tf.ones([3, 3])], [variable])
    np.testing.assert_allclose(gates.gate_logits, -sign * _LARGEST_LOGIT, rtol=1e-6)
    for _ in range(200):
        optimizer.apply([-sign * tf.ones([3, 3])], [variable])
    assert (sign * gates.gate_logits.numpy() > 0).all()


@pytest.mark.parametrize("initial_prob", [0.05, 0.95])
def test_all_probabilities_that_the_config_admits_are_within_the_bound(initial_prob):
    Config(initial_gate_prob=initial_prob)
    gates = make(initial_prob=initial_prob)
    assert (abs(gates.gate_logits.numpy()) < _LARGEST_LOGIT).all()


def test_fixed_gates_are_the_given_ones_and_have_no_weights():
    adjacency = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    gates = make(3, edges=[(2, 1), (3, 2)])
    np.testing.assert_array_equal(gates.probs(), adjacency)
    np.testing.assert_array_equal(gates.adjacency(), adjacency)
    assert gates.weights == []


@pytest.mark.parametrize(
    "edges",
    [[(4, 1)], [(3, 0)], [(1, 2)], [(2, 2)], [(3, 1), (2, 1.0)], [(3, 2, 1)], [3], ["31"], np.eye(3), [(np.nan, 1)]],
)
def test_bad_edges_are_refused(edges):
    with pytest.raises(
        ValueError, match=r"edges must be pairs \(parent, child\) of .* 3 >= parent > child >= 1\. Received: "
    ):
        Gates(3, edges)


@pytest.mark.parametrize("edges", [None, [], [(2, 1)]])
def test_serialisation_keeps_the_gates(edges):
    gates = make(2, initial_prob=0.25, edges=edges)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(gates))
    np.testing.assert_array_equal(copy.probs(), gates.probs())
    assert copy.get_config() == gates.get_config()
