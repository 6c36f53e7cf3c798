"""The SavedModel: what it can be asked, how it is written, and its model card."""

import os
import pathlib
import shutil

import tensorflow as tf

from tf_ldiaf.errors import ConfigError
from tf_ldiaf.execution import stopping
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import evaluation, pictures, report
from tf_ldiaf.results.run_folder import RunFolder


class ServedModel(tf.Module):
    """The four questions a SavedModel answers, for any batch size. TFP leaves no trace in the graph.

    Images are float32 [n, H, W] in {0, 1}; `seed`, `num` and `num_importance_samples` are int32 scalars.

        sample(num, seed)                                      -> probs, images: [num, H, W]
        encode(images)                                         -> codes: [n, N, D]
        reconstruct(images, seed)                              -> probs, images: [n, H, W]
        log_likelihood(images, num_importance_samples, seed)   -> log_likelihood: [n], nats

    Args:
        model: a built `LDIAF`.
    """

    def __init__(self, model: LDIAF):
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        images = tf.TensorSpec([None, *model.image_shape], tf.float32, name="images")
        seed = tf.TensorSpec([], tf.int32, name="seed")
        num = tf.TensorSpec([], tf.int32, name="num")
        num_samples = tf.TensorSpec([], tf.int32, name="num_importance_samples")
        self.sample = tf.function(lambda num, seed: model.sample(num, seed), [num, seed], autograph=False)
        self.encode = tf.function(lambda images: {"codes": model.encode(images)}, [images], autograph=False)
        self.reconstruct = tf.function(
            lambda images, seed: model.reconstruct(images, seed), [images, seed], autograph=False
        )
        self.log_likelihood = tf.function(
            lambda images, num_importance_samples, seed: {
                "log_likelihood": model.log_likelihood(images, num_importance_samples, seed)
            },
            [images, num_samples, seed],
            autograph=False,
        )


def is_saved_model(path: str | os.PathLike) -> bool:
    return (pathlib.Path(path) / "saved_model.pb").is_file()


def occupied(path: str | os.PathLike, overwrite: bool) -> bool:
    """Whether a SavedModel may not be written to `path`."""
    path = pathlib.Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    return not (overwrite and is_saved_model(path))


def export(folder: RunFolder, out: str | os.PathLike) -> None:
    """Writes the best weights of a run to `out`, with its graph, curves and a model card (README.md).

    Raises:
        ConfigError: the run has no model or no history, or `out` cannot be written.
    """
    model, rows = evaluation.load_best(folder), folder.read_history()
    if not rows or not {"phase", "elbo", "val_elbo"} <= set(rows[0]):
        raise ConfigError(f"--run_dir must hold the history of its training. Received: {folder.path}, which has none.")
    graph, served = _graph(model, folder), ServedModel(model)
    card = report.model_card(folder, model.image_shape, pathlib.Path(out).name, graph)
    signatures = {name: getattr(served, name) for name in ("sample", "encode", "reconstruct", "log_likelihood")}
    out = pathlib.Path(out)
    scratch, old = (out.with_name(out.name + suffix) for suffix in (".part", ".old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        tf.saved_model.save(served, str(scratch), signatures=signatures)
        pictures.save_graph(graph, scratch / "graph.json")
        pictures.save_graph(graph, scratch / "graph.png")
        samples = pictures.grid(model.sample(64, seed=0)["probs"])
        (scratch / "samples.png").write_bytes(pictures.as_png(samples))
        (scratch / "curves.png").write_bytes(pictures.as_png(pictures.draw_curves(rows)))
        (scratch / "README.md").write_text(card)
        with stopping.deferred():  # there is one of them at any moment
            if out.exists():
                os.replace(out, old)
            os.replace(scratch, out)
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, tf.errors.OpError) as error:
        raise ConfigError(f"--out must be a folder that can be written. Received: {out} ({error}).") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _graph(model, folder):
    adjacency = model.gates.adjacency().numpy()
    epochs = folder.read_gates()["epochs"]
    try:
        return pictures.latent_graph(adjacency, epochs[-1]["probs"] if epochs else None)
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"{folder.gates_file} must hold the gates of a run. Received: {error!r}.") from None
