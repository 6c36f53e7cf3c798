"""Pictures pixel by pixel, and the latent graph's orientation."""

import json
import warnings

import matplotlib
import networkx as nx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_ldiaf import LDIAF
from tf_ldiaf.results import pictures, report

# z1 depends on z2 and z3, z2 on nothing: adjacency[child, parent].
ADJACENCY = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]])
PROBS = np.array([[0, 0.9, 0.60004], [0, 0, 0.2], [0, 0, 0]])


@pytest.fixture
def graph():
    return pictures.latent_graph(ADJACENCY, PROBS)


def test_grid_puts_every_pixel_in_its_place():
    images = np.random.default_rng(0).random((5, 60, 70)).astype("float32")  # large: not enlarged
    picture = pictures.grid(images, columns=3)
    assert picture.dtype == "uint8"
    assert picture.shape == (2 * 64, 3 * 74)
    covered = np.zeros(picture.shape, bool)
    for i, image in enumerate(images):
        top, left = 64 * (i // 3) + 2, 74 * (i % 3) + 2
        covered[top : top + 60, left : left + 70] = True
        assert np.array_equal(picture[top : top + 60, left : left + 70], np.round(255 * (1 - image)))
    assert (picture[~covered] == 255).all()  # margins and the empty tile are paper


def test_grid_is_square_by_default_and_enlarges_small_images():
    images = np.zeros((5, 8, 4), "float32")
    images[4, 1, 2] = 1
    picture = pictures.grid(images)
    assert picture.shape == (2 * (56 + 4), 3 * (28 + 4))  # 3 columns, each pixel 7 x 7
    ink = np.argwhere(picture == 0)
    assert len(ink) == 49
    assert ink.min(axis=0).tolist() == [60 + 2 + 7, 32 + 2 + 14]
    assert ink.max(axis=0).tolist() == [60 + 2 + 13, 32 + 2 + 20]


def test_grid_clips_what_is_not_a_probability():
    assert set(np.unique(pictures.grid(np.array([[[-1.0, 2.0]]])))) == {0, 255}


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_saved_pictures_are_readable(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    (tmp_path / "picture.png").write_bytes(pictures.as_png(picture))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), picture)


def test_edges_go_from_parent_to_child(graph):
    assert list(graph) == ["z1", "z2", "z3"]
    assert sorted(graph.edges(data="weight")) == [("z2", "z1", 0.9), ("z3", "z1", 0.6)]
    assert sorted(pictures.latent_graph(ADJACENCY).edges(data="weight")) == [("z2", "z1", 1), ("z3", "z1", 1)]


def test_root_has_no_parent_in_the_full_graph():
    graph = pictures.latent_graph(np.triu(np.ones((4, 4)), k=1))
    assert nx.is_directed_acyclic_graph(graph)
    assert [graph.in_degree(f"z{n}") for n in (1, 2, 3, 4)] == [3, 2, 1, 0]


def test_drawing_is_a_picture_and_shows_the_direction(graph):
    picture = pictures.draw_graph(graph)
    assert picture.dtype == "uint8"
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert (picture < 128).any()
    assert not np.array_equal(pictures.draw_graph(graph), pictures.draw_graph(graph.reverse()))


def test_graph_of_one_node_and_without_edges_can_be_drawn():
    for num in (1, 3):
        assert (pictures.draw_graph(pictures.latent_graph(np.zeros((num, num)))) < 128).any()


def test_dot(graph, tmp_path):
    pictures.save_graph(graph, tmp_path / "graph.dot")
    lines = [line.strip() for line in (tmp_path / "graph.dot").read_text().splitlines()]
    assert lines[:2] == ["// tf_ldiaf", "digraph latent {"]
    assert lines[-1] == "}"
    assert sorted(lines[2:-1]) == sorted(["z1;", "z2;", "z3;", 'z2 -> z1 [label="0.90"];', 'z3 -> z1 [label="0.60"];'])


def test_json_reads_back_as_the_same_graph(graph, tmp_path):
    pictures.save_graph(graph, tmp_path / "graph.json")
    content = json.loads((tmp_path / "graph.json").read_text())
    assert content["directed"] is True
    assert {"source": "z2", "target": "z1", "weight": 0.9} in content["edges"]
    again = nx.node_link_graph(content, edges="edges")
    assert nx.utils.graphs_equal(again, graph)


def test_png(graph, tmp_path):
    pictures.save_graph(graph, str(tmp_path / "graph.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "graph.png")), pictures.draw_graph(graph))


@pytest.mark.parametrize(("structure", "final"), [(0, 1), (3, 12), (40, 200)])
def test_curves_show_both_lines_and_the_end_of_the_structure_phase(structure, final, monkeypatch):
    num = structure + final
    phases = ["structure"] * structure + ["final"] * final
    rows = [{"phase": phase, "elbo": -90.0 + i, "val_elbo": -92.0 + i} for i, phase in enumerate(phases)]
    assert pictures.draw_curves(rows).shape == (432, 720, 3)
    monkeypatch.setattr(pictures, "_as_pixels", lambda figure: figure)
    [axes] = pictures.draw_curves(rows).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["training"], np.stack([np.arange(1, num + 1), np.arange(num) - 90], axis=1))
    np.testing.assert_array_equal(lines["validation"], np.stack([np.arange(1, num + 1), np.arange(num) - 92], axis=1))
    assert [x for x, _ in lines.get("gates are fixed", [])] == ([structure + 0.5] * 2 if structure else [])
    low, high = axes.get_ylim()
    assert low < -92 + structure // 10  # all but the first tenth of the first phase can be seen
    assert high > -90 + num - 1


def test_a_dead_node_is_said_and_drawn_otherwise(tmp_path):
    alive, dead = (pictures.latent_graph(ADJACENCY, PROBS, kl=kl) for kl in ([1.0, 2.0, 3.0], [1.0, 0.001, 3.0]))
    assert pictures.dead_nodes(alive) == []
    assert pictures.dead_nodes(dead) == ["z2"]
    assert report.dead_text(dead) == " Dead nodes, which say nothing of an image: z2."
    assert report.dead_text(pictures.latent_graph(ADJACENCY)) == ""
    assert (pictures.draw_graph(alive) != pictures.draw_graph(dead)).any()
    pictures.save_graph(dead, tmp_path / "graph.dot")
    assert "  z2 [style=dashed, color=grey];" in (tmp_path / "graph.dot").read_text()
    pictures.save_graph(dead, tmp_path / "graph.json")
    assert json.loads((tmp_path / "graph.json").read_text())["nodes"][1] == {"kl": 0.001, "id": "z2"}


def test_what_a_node_draws_has_a_row_of_its_own():
    """A node whose pictures are all 0 leaves its row grey."""
    model = LDIAF(2, 3, 0, edges=[], decoder="additive", encoder_units=[4], decoder_units=[4], node_units=[4])
    model.build((None, 8, 8))
    last = model.decoder.stack[-1]
    for weight in last.trainable_weights:
        weight.assign(weight * tf.reshape([1.0, 0.0], [2, *[1] * (len(weight.shape) - 1)]))
    picture = pictures.node_pictures(model, num=3)
    first, second = np.split(picture, 2)
    assert picture.shape[1] > picture.shape[0]
    assert len(np.unique(first)) > 5
    assert set(np.unique(second)) == {128, 255}  # one half, and the frame


def test_a_user_s_style_of_figures_changes_nothing(graph):
    rows = [{"phase": "final", "elbo": -3.0 + i, "val_elbo": -3.5 + i} for i in range(3)]

    def drawn():
        return [pictures.draw_graph(graph), pictures.draw_curves(rows), pictures.draw_histories({"_a$b^$": rows})]

    expected = drawn()
    with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 9, "savefig.dpi": 30}):
        for one, other in zip(drawn(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert matplotlib.rcParams["text.parse_math"]


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend():
    rows = [{"phase": "final", "elbo": -3.0 + i, "val_elbo": -3.5 + i} for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a legend with nothing in it
        picture = pictures.draw_histories({"_base": rows})
    assert not np.array_equal(picture, pictures.draw_histories({"_other": rows}))
