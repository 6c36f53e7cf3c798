"""The latent graph: who depends on whom, and fusion against the product of densities."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_ldiaf.probability.gaussians import fuse

CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_prior_depends_on_a_parent_exactly_where_the_gate_is_open(build):
    """All 64 graphs of 4 nodes, one to a row: the autodiff Jacobian's zeros are the adjacency's."""
    graph = build("fc_vae", num_nodes=4).graph
    graphs = np.zeros((64, 4, 4), "float32")
    graphs[:, *np.triu_indices(4, 1)] = list(itertools.product([0, 1], repeat=6))
    z = tf.random.stateless_normal([64, 4, 2], [0, 0])
    gates = tf.constant(np.transpose(graphs[:, :, 1:], (1, 0, 2))[:, np.newaxis])  # [N, 1, 64, N - 1]
    for child in range(3):
        with tf.GradientTape() as tape:
            tape.watch(z)
            given = lambda n, is_root, prior: [z[tf.newaxis, :, n], prior.loc, prior.scale]  # noqa: E731
            _, loc, scale = graph.descend([1, 64], gates, given, 3)
            loss = tf.reduce_sum(loc[child] * [1.0, 0.7]) + tf.reduce_sum(scale[child] * [0.9, 1.3])
        moved = np.any(tape.gradient(loss, z).numpy() != 0, axis=-1)
        np.testing.assert_array_equal(moved, graphs[:, child] == 1)


@pytest.mark.parametrize("adjacency", [CHAIN, np.triu(np.ones((3, 3)), 1), np.zeros((3, 3))])
def test_fixed_adjacency_is_what_the_descent_uses(build, adjacency):
    """Moving one latent moves the prior of its children only: rows of `adjacency` are children."""
    model = build(adjacency=adjacency)

    def priors(moved):
        seen = {}

        def draw(n, is_root, prior):
            seen[int(n)] = prior.loc.numpy()
            assert is_root == (n == 2)
            return [tf.fill([1, 1, 2], 1.0 if n == moved else 0.5)]

        model.graph.descend([1, 1], model.graph.draw_gates(), draw, 1)
        return seen

    rest = priors(None)
    for parent in range(3):
        seen = priors(parent)
        changed = [child for child in range(3) if (seen[child] != rest[child]).any()]
        assert changed == [child for child in range(3) if adjacency[child, parent]]


def test_edges_of_the_settings_are_the_graph(build):
    gates = build("ldiaf", edges="3-1,2-1").gates
    np.testing.assert_array_equal(gates.adjacency(), [[0, 1, 1], [0, 0, 0], [0, 0, 0]])
    assert not gates.trainable_variables


@pytest.mark.parametrize(
    ("first", "second"), [((0, 1), (2, 1)), ((-3, 0.5), (1, 2)), ((4, 3), (4, 0.2)), ((1, 0.05), (1.2, 0.07))]
)
def test_fusion_is_the_normalised_product_of_gaussians(first, second):
    grid = np.linspace(-40, 40, 400_001)
    density = stats.norm.pdf(grid, *first) * stats.norm.pdf(grid, *second)
    density /= density.sum()
    mean = np.sum(grid * density)
    deviation = np.sqrt(np.sum((grid - mean) ** 2 * density))
    loc, scale = fuse(tuple(map(tf.constant, map(float, first))), tuple(map(tf.constant, map(float, second))))
    np.testing.assert_allclose([loc, scale], [mean, deviation], rtol=1e-5, atol=1e-5)


def test_fusion_is_finite_at_extreme_scales_and_follows_the_sharper():
    for a, b in itertools.product([1e-15, 1e-3, 1.0, 1e3, 1e15], repeat=2):
        loc, scale = fuse((tf.constant(-1.0), tf.constant(a)), (tf.constant(1.0), tf.constant(b)))
        assert np.isfinite([loc, scale]).all()
        assert -1 <= float(loc) <= 1
        assert 0 < float(scale) <= min(a, b) * 1.000001
        if a != b:
            assert float(loc) == pytest.approx(-1.0 if a < b else 1.0, abs=1e-5)
