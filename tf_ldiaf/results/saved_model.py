"""A run as a SavedModel, with its model card."""

import os
import pathlib
import tempfile

import tensorflow as tf

from tf_ldiaf import paths
from tf_ldiaf.errors import FileError
from tf_ldiaf.execution import stopping
from tf_ldiaf.results import evaluation, pictures, report
from tf_ldiaf.results.run_folder import RunFolder


def export(folder: RunFolder, out: str | os.PathLike, overwrite: bool = False) -> None:
    """Writes the best weights of a run to `out`, with its graph, curves and a model card (README.md).

    Args:
        folder: the run.
        out: a new folder.
        overwrite: whether `out` may be a SavedModel that this function wrote, which is replaced.

    Raises:
        FileError: the run has no model or no history, or `out` cannot be written.
    """
    out = paths.as_path(out, "out")
    _check_free(out, overwrite)
    model, rows = evaluation.load_best(folder), folder.read_history()
    if not rows or not {"phase", "elbo", "val_elbo"} <= set(rows[0]):
        raise FileError(f"`run_dir` must hold the history of its training. Received: {folder.path}, which has none.")
    graph = _graph(model, folder)
    target = out.resolve()  # where a link leads to
    card = report.model_card(folder, model.image_shape, target.name, graph)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tf_ldiaf-", dir=target.parent) as place:
            scratch = pathlib.Path(place) / "new"
            model.export(scratch)
            pictures.save_graph(graph, scratch / "graph.json")
            pictures.save_graph(graph, scratch / "graph.png")
            samples = pictures.grid(model.sample(64, seed=0)["probs"], ink=model.num_values == 2)
            (scratch / "samples.png").write_bytes(pictures.as_png(samples))
            (scratch / "curves.png").write_bytes(pictures.as_png(pictures.draw_curves(rows)))
            (scratch / "README.md").write_text(card)
            with stopping.deferred():  # there is one of them at any moment
                if target.exists():
                    os.replace(target, pathlib.Path(place) / "old")
                os.replace(scratch, target)
    except (OSError, tf.errors.OpError) as error:
        raise FileError(f"`out` must be a folder that can be written. Received: {out} ({error}).") from None


def _check_free(out, overwrite):
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out.is_dir() and paths.is_ours(out)):
        raise FileError(f"`out` must be a new folder. Received: {out}, which holds other things.")
    if not overwrite:
        raise FileError(
            f"`out` must be a new folder. Received: {out}, which holds a SavedModel; `overwrite` replaces it."
        )


def _graph(model, folder):
    """The graph with what its edges are worth: on test images, if that was measured; otherwise when it was learned."""
    adjacency = model.gates.adjacency().numpy()
    metrics = folder.read_metrics() if folder.is_evaluated() else {}
    with paths.as_written(folder.metrics_file):
        kl, worth = metrics.get("test_kl_per_node"), metrics.get("test_edge_worth")
        if worth is not None:
            return pictures.graph_of_worths(adjacency, worth, kl)
    with paths.as_written(folder.gates_file):
        gates = folder.read_gates()
        probs = gates["epochs"][-1]["probs"] if gates["epochs"] else None
        return pictures.learned_graph(adjacency, gates.get("edges", []), probs, kl)
