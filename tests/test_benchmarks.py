"""tf_ldiaf as a contender against the ELBO in float64, term by term, from weights that all contenders share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import likelihood, oracle, parts, peers, price, profile
from tf_ldiaf import Config


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


@pytest.mark.parametrize("channels", [[0, 2, 3], [2, 0, 3], [3]])
def test_contenders_share_one_elbo_with_residual_convolutions(channels):
    from benchmarks import peer_tf_ldiaf

    sizes = peers.CONVOLUTIONS | {"num_pixels": 64, "channels": channels, "encoder_units": [8], "decoder_units": [8]}
    sizes |= {"num_nodes": 2, "node_dim": 3, "num_flow_steps": 0, "node_units": [4]}
    weights = oracle.perturbed(peers.init(sizes, 0), 1)
    rng = np.random.default_rng(2)
    x, eps = rng.integers(0, 2, (8, 64)).astype("uint8"), rng.normal(size=(2, 8, 3))
    contender = peer_tf_ldiaf.Contender(sizes, weights, 8, "launch")
    expected, _ = oracle.elbo(sizes, weights, x, eps)
    np.testing.assert_allclose(contender.elbo(x, eps), expected, rtol=2e-5)


def test_flops_are_those_of_the_matrix_products_counted_by_hand():
    sizes = peers.SIZES | {"num_pixels": 10, "num_nodes": 2, "node_dim": 3, "num_flow_steps": 1, "encoder_units": [7]}
    sizes |= {"decoder_units": [5], "node_units": [4], "flow_units": [6], "context_dim": 2}
    encoder, bottom_up, context = 10 * 7, 2 * (7 * 4 + 4 * 8), 2 * (2 * 6)
    top_down, flows, decoder = 3 * 4 + 4 * 6, 2 * (3 * 6 + 6 * 6), 6 * 5 + 5 * 10
    once, per_draw = encoder + bottom_up + context, top_down + flows + decoder
    assert peers.training_flops(sizes) == 2 * (3 * (once + per_draw) - encoder)
    assert peers.likelihood_flops(sizes, 9) == 2 * (once + 9 * per_draw)


def test_flops_of_convolutions_are_those_counted_by_hand():
    sizes = peers.SIZES | {"num_pixels": 64, "num_nodes": 1, "node_dim": 3, "num_flow_steps": 0, "encoder_units": [7]}
    sizes |= {"decoder_units": [5], "node_units": [4], "channels": [2, 3], "residual_blocks": 1}
    full, half = 64 * 2 * (9 * 2 * 2), 16 * 2 * (9 * 3 * 3)  # two convolutions of 3 x 3 in each block
    first, to_half, features = 64 * 9 * 2, 16 * 4 * 2 * 3, 4 * 4 * 3
    once = first + full + to_half + half + features * 7 + (7 * 4 + 4 * 6)
    from_half, to_image = 16 * 4 * 3 * 2, 64 * 2
    per_draw = 3 * 5 + 5 * features + half + from_half + full + to_image
    assert peers.training_flops(sizes) == 2 * (3 * (once + per_draw) - first)
    assert peers.likelihood_flops(sizes, 9) == 2 * (once + 9 * per_draw)


def test_the_launch_for_a_gpu_trains_on_its_epochs_images_in_their_order(compiled, images):
    """Two epochs of two calls of three steps, against `train_step` on the unpacked batches."""
    from benchmarks import gpu_export

    x, weights, elbos = images(48).reshape(48, 9).astype("uint8"), [], []
    for packed in (True, False):
        keras.utils.set_random_seed(0)
        model = compiled("fc_vae", optimizer=keras.optimizers.SGD(0.01), jit_compile=True)
        model.build((None, 9))
        model.optimizer.build(model.trainable_variables)
        if packed:
            launch = gpu_export.make_launch(model, 48, 3, 8)
            bits = tf.constant(np.packbits(x, axis=1))
            elbos.append([float(launch(bits, tf.constant(call))) for call in range(4)])
        else:
            found = []
            step = tf.function(model.train_step, jit_compile=True)
            for call in range(4):
                order = gpu_export.epoch_order(48, 0, call // 2).numpy()
                assert sorted(order) == list(range(48))
                for rows in np.split(order[24 * (call % 2) :][:24], 3):
                    logs = step(tf.constant(x[rows]))
                found.append(float(logs["elbo"]))
            elbos.append(found)
        weights.append([v.numpy() for v in model.trainable_variables])
    np.testing.assert_allclose(*elbos, rtol=1e-4)
    for together, apart in zip(*weights, strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_random_graph_has_as_many_edges_as_the_learned_one(seed):
    learned = [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    edges = likelihood.graph_flag("random edges", seed, learned)
    config = Config(method="ldiaf", num_nodes=4, edges=edges.removeprefix("--edges="))
    assert len(config.fixed_edges) == 4


def test_a_random_graph_beside_a_learned_one_without_edges_is_empty():
    assert likelihood.graph_flag("random edges", "0", np.zeros((3, 3)).tolist()) == "--edges=none"


def test_full_empty_and_priced_graphs_need_no_learned_one():
    assert [likelihood.graph_flag(name, "0", None) for name in ("all edges", "no edges", "price 0.7")] == [
        "--edges=all", "--edges=none", "--edge_cost=0.7",
    ]  # fmt: skip


def test_means_over_seeds_their_differences_and_how_far_graphs_agree():
    def run(elbo, log_likelihood, *edges):
        adjacency = np.zeros((3, 3))
        for edge in edges:
            adjacency[edge] = 1
        evaluation = {"test_elbo": elbo, "test_log_likelihood": log_likelihood}
        return {"evaluations": {"100": evaluation}, "adjacency": adjacency.tolist()}

    results = {
        "threshold/graph_vae/0": run(-72.0, -68.0, (0, 1)),
        "threshold/graph_vae/1": run(-73.0, -68.4, (0, 2), (0, 1)),
        "threshold/ldiaf/0": run(-71.0, -67.0, (0, 1), (1, 2)),
        "threshold/ldiaf/1": run(-71.6, -67.4, (0, 1), (0, 2)),
        "threshold/ldiaf, price 0.7/0": run(-71.0, -67.0, (0, 1)),
        "threshold/ldiaf, price 0.7/1": run(-71.0, -67.0, (0, 1)),
        "threshold/ldiaf, random edges/0": run(-71.5, -67.2, (0, 2)),
        "threshold/ldiaf, random edges/1": run(-71.7, -67.4, (1, 2)),
        "threshold/vae/0": run(-75.0, -70.0, (0, 1)),
        "static/ldiaf/1": run(-90.0, -86.0, (0, 1)),
    }
    text = likelihood.over_seeds("threshold", results)
    assert "| `graph_vae` | 2 | -72.50, sd 0.71 | -68.20, sd 0.28 | 1, 2 | 1 | 2 |" in text
    assert "| `ldiaf` | 2 | -71.30, sd 0.42 | -67.20, sd 0.28 | 2, 2 | 1 | 3 |" in text
    assert "`ldiaf` less `graph_vae`: ELBO +1.20 +- 0.58, LL +1.00 +- 0.28." in text
    assert "`ldiaf, price 0.7` less `ldiaf, random edges`: ELBO +0.60 +- 0.10, LL +0.30 +- 0.10." in text
    assert "`vae`" not in text
    assert likelihood.over_seeds("static", results) == ""
    plain = {f"static/vae/{seed}": {"evaluations": run(-90.0 - seed, -86.0)["evaluations"]} for seed in (0, 1)}
    assert "| `vae` | 2 | -90.50, sd 0.71 | -86.00, sd 0.00 | - | - | - |" in likelihood.over_seeds("static", plain)


def test_what_overlapping_intervals_cover_counts_once():
    assert profile.covered([(-5, -4), (0, 4), (1, 2), (3, 6), (6, 7), (10, 11)]) == 9
    assert profile.covered([]) == 0


def test_nodes_and_edges_of_two_models_are_compared_after_the_best_renaming():
    codes = np.random.default_rng(0).standard_normal((1000, 3, 2))
    others = codes[:, [2, 0, 1]]  # so node 1 is the other's node 2, and so on
    found = parts.agreement(codes, others, [(2, 1), (3, 1)], [(3, 2), (3, 1)])
    assert found["renaming"] == [2, 3, 1]
    assert min(found["told"]) > 0.9
    # Of two edges (3, 2) and (1, 2) one is right. Of six possible edges two have a third of two by chance.
    assert found["f1"] == [0.5, pytest.approx(1 / 3, abs=1e-3)]
    unused = np.concatenate([codes, np.random.default_rng(1).standard_normal((1000, 3, 8)) / 100], axis=2)
    assert min(parts.agreement(unused, others, [], [])["told"]) > 0.9


def test_the_worths_of_all_edges_are_a_table_and_older_results_have_none():
    results = {"digits": {"0": {"worth": {"2-1": [0.5, 0.01], "3-1": [0.25, 0.02]}}, "1": {}}}
    assert price.worth_table(results).splitlines()[0] == "| data | seed | 2-1 | 3-1 |"
    assert price.worth_table(results).splitlines()[2:] == ["| digits | 0 | 0.50 +- 0.01 | 0.25 +- 0.02 |"]
