"""tf_ldiaf as a contender against the ELBO in float64, term by term, from weights that all contenders share."""

import numpy as np
import pytest

from benchmarks import oracle, peers


@pytest.mark.parametrize(("num_nodes", "node_dim", "num_flow_steps"), [(1, 80, 0), (1, 80, 2), (5, 16, 0), (5, 16, 2)])
def test_contenders_share_one_elbo_for_equal_weights_and_noise(num_nodes, node_dim, num_flow_steps):
    from benchmarks import peer_tf_ldiaf

    sizes = peers.SIZES | {"num_nodes": num_nodes, "node_dim": node_dim, "num_flow_steps": num_flow_steps}
    weights = oracle.perturbed(peers.init(sizes, 0), 1)
    rng = np.random.default_rng(2)
    x, eps = rng.integers(0, 2, (8, 784)).astype("uint8"), rng.normal(size=(num_nodes, 8, node_dim))
    contender = peer_tf_ldiaf.Contender(sizes, weights, 8, "launch")
    expected, s = oracle.elbo(sizes, weights, x, eps)
    np.testing.assert_allclose(contender.elbo(x, eps), expected, rtol=2e-5)
    if num_flow_steps:
        assert s.min() < 0.1  # the flows are far from the identity
        assert s.max() > 0.99


def test_flops_are_those_of_the_matrix_products_counted_by_hand():
    sizes = peers.SIZES | {"num_pixels": 10, "num_nodes": 2, "node_dim": 3, "num_flow_steps": 1, "encoder_units": [7]}
    sizes |= {"decoder_units": [5], "node_units": [4], "flow_units": [6], "context_dim": 2}
    encoder, bottom_up, context = 10 * 7, 2 * (7 * 4 + 4 * 8), 2 * (2 * 6)
    top_down, flows, decoder = 3 * 4 + 4 * 6, 2 * (3 * 6 + 6 * 6), 6 * 5 + 5 * 10
    once, per_draw = encoder + bottom_up + context, top_down + flows + decoder
    assert peers.training_flops(sizes) == 2 * (3 * (once + per_draw) - encoder)
    assert peers.likelihood_flops(sizes, 9) == 2 * (once + 9 * per_draw)
