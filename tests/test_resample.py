"""Some nodes held, the others drawn anew: what stays, what follows the prior, and what one edge changes."""

import numpy as np
import pytest
import tensorflow as tf
from test_model import CHAIN, numpy_gaussian

NUM = 4_000


@pytest.fixture
def latents():
    return np.random.default_rng(0).normal(size=(5, 3, 2)).astype("float32")


def test_kept_nodes_are_kept_to_the_bit(build, latents):
    model = build(adjacency=CHAIN)
    for keep in ([True, False, True], np.random.default_rng(1).random((5, 3)) < 0.5):
        drawn = model.resample(latents, keep, seed=3)["latents"].numpy()
        keep = np.broadcast_to(keep, (5, 3))
        np.testing.assert_array_equal(drawn[keep], latents[keep])
        assert (drawn[~keep] != latents[~keep]).all()
    everything = model.resample(latents, [True] * 3)
    np.testing.assert_array_equal(everything["latents"], latents)
    np.testing.assert_array_equal(everything["probs"], model.decode(latents)["probs"])
    np.testing.assert_array_equal(everything["probs"], model.likelihood(latents).mean())


@pytest.mark.parametrize("root_components", [0, 3])
def test_where_nothing_is_kept_the_draws_are_those_of_a_sample(build, latents, root_components):
    model = build("graph_vae", edges="3-2,2-1", root_components=root_components)
    drawn = model.resample(latents, [False] * 3, seed=6)
    np.testing.assert_array_equal(drawn["probs"], model.sample(5, seed=6)["probs"])
    assert (drawn["probs"].numpy() != model.sample(5, seed=7)["probs"].numpy()).any()


def test_a_node_whose_parents_are_kept_follows_its_prior(build, latents):
    """z_2 given z_3 by the weights in numpy. 8 comparisons at 5 standard errors: a right model fails for 1 seed in
    200,000."""
    model = build(adjacency=CHAIN)
    many = np.repeat(latents[:1], NUM, axis=0)
    z2 = model.resample(many, [True, False, True], seed=1)["latents"].numpy()[:, 1]
    inputs = np.concatenate([np.zeros((1, 2)), latents[:1, 2]], axis=1)
    loc, scale = numpy_gaussian(model.graph.top_down, 1, inputs)
    assert (np.abs(z2.mean(axis=0) - loc[0]) < 5 * scale[0] / np.sqrt(NUM)).all()
    assert (np.abs(z2.std(axis=0) / scale[0] - 1) < 5 / np.sqrt(2 * NUM)).all()
    shut = model.resample(many, [True, False, True], seed=1, adjacency=np.zeros((3, 3)))["latents"].numpy()[:, 1]
    assert (np.abs(shut.mean(axis=0)) < 5 / np.sqrt(NUM)).all()
    assert (np.abs(shut.std(axis=0) - 1) < 5 / np.sqrt(2 * NUM)).all()
    np.testing.assert_allclose((z2 - loc) / scale, shut, atol=1e-4)  # the same noise


def test_an_edge_that_is_shut_changes_its_child_and_what_is_below(build, latents):
    model = build(adjacency=[[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], num_nodes=4)
    latents = np.concatenate([latents, latents[:, :1]], axis=1)
    ask = {"latents": latents, "keep": [False] * 4, "seed": 2}
    before = model.resample(**ask)["latents"].numpy()
    np.testing.assert_array_equal(model.resample(**ask, adjacency=np.ones((4, 4), bool))["latents"], before)
    adjacency = np.ones((4, 4), bool)
    adjacency[1, 3] = False  # 4 -> 2, and 2 -> 1 hangs below
    after = model.resample(**ask, adjacency=adjacency)["latents"].numpy()
    np.testing.assert_array_equal(after[:, 2:], before[:, 2:])
    assert (after[:, :2] != before[:, :2]).all()


def test_a_sample_holds_the_nodes_that_are_given(build, latents):
    model = build(adjacency=CHAIN)
    free = model.resample(latents, [False] * 3, seed=4)["latents"].numpy()
    for given in (latents[:, 2], latents[0, 2]):
        held = np.array(free)
        held[:, 2] = given
        # z_3 is where it is held, and z_1, z_2 have the noise that they would have had.
        expected = model.resample(held, [False, False, True], seed=4)["probs"]
        np.testing.assert_array_equal(model.sample(5, seed=4, given={3: given})["probs"], expected)
    np.testing.assert_array_equal(
        model.sample(5, seed=4, given={3: free[:, 2]})["probs"], model.sample(5, seed=4)["probs"]
    )
    # No node learns from those below it.
    held = model.sample(5, seed=4, given={1: latents[:, 0]})
    expected = np.concatenate([latents[:, :1], free[:, 1:]], axis=1)
    np.testing.assert_allclose(held["probs"], model.decode(expected)["probs"], atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m, z: m.sample(5, given={4: z[:, 0]}), "given must name nodes from 1 to 3. Received: 4."),
        (lambda m, z: m.sample(5, given={"z1": z[:, 0]}), "given must name nodes from 1 to 3. Received: z1."),
        (lambda m, z: m.sample(4, given={1: z[:, 0]}), "given[1] must have the shape [2] or [4, 2]. Received: [5, 2]."),
        (lambda m, z: m.decode(z[0]), "latents must have the shape [n, 3, 2]. Received: [3, 2]."),
        (lambda m, z: m.resample(z[:, 1:], [1]), "latents must have the shape [n, 3, 2]. Received: [5, 2, 2]."),
        (lambda m, z: m.resample(z, [True] * 2), "keep must have the shape [3] or [5, 3]. Received: [2]."),
        (lambda m, z: m.resample(z, [1] * 3, 0, [[1]]), "adjacency must have the shape [3, 3]. Received: [1, 1]."),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_one_sentence(build, latents, ask, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ask(build(adjacency=CHAIN), latents)
    assert str(error.value) == words


@pytest.mark.parametrize("method", ["vae", "vae_iaf", "ldiaf"])
def test_every_method_resamples_in_a_graph_of_any_batch_size(build, method):
    model = build(method)
    num = model.num_nodes
    specs = [tf.TensorSpec([None, num, 2]), tf.TensorSpec(None, tf.bool), tf.TensorSpec([num, num], tf.bool)]
    compiled = tf.function(lambda z, keep, adjacency: model.resample(z, keep, 5, adjacency)).get_concrete_function(
        *specs
    )
    for size in (1, 3):
        z, keep = np.ones((size, num, 2), "float32"), [True] * (num - 1) + [False]
        ours = model.resample(z, keep, 5)
        theirs = compiled(tf.constant(z), tf.constant(keep), tf.ones([num, num], tf.bool))
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, atol=1e-6)
