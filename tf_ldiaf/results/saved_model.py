"""The SavedModel: what it can be asked, how it is written, and its model card."""

import dataclasses
import os
import pathlib
import shutil

import tensorflow as tf

from tf_ldiaf.config import ConfigError
from tf_ldiaf.execution import stopping
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import evaluation, pictures
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


def is_saved_model(path) -> bool:
    return (pathlib.Path(path) / "saved_model.pb").is_file()


def occupied(path, overwrite: bool) -> bool:
    """Whether a SavedModel may not be written to `path`."""
    path = pathlib.Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    return not (overwrite and is_saved_model(path))


def export(folder: RunFolder, out) -> None:
    """Writes the best weights of a run to `out`, with its graph, curves and a model card (README.md).

    Raises:
        ConfigError: the run has no model or no history, or `out` cannot be written.
    """
    model, rows = evaluation.load_best(folder), folder.read_history()
    if not rows or not {"phase", "elbo", "val_elbo"} <= set(rows[0]):
        raise ConfigError(f"--run_dir must hold the history of its training. Received: {folder.path}, which has none.")
    graph, served = _graph(model, folder), ServedModel(model)
    card = _card(folder, model, pathlib.Path(out).name, graph)
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


def _card(folder, model, name, graph):
    config = model.config
    info = folder.read_info()
    if folder.metrics_file.is_file():
        try:
            numbers = evaluation.table(folder.read_metrics())
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"{folder.metrics_file} must be what evaluate wrote. Received: {error!r}.") from None
    else:
        numbers = "Not measured: `python -m tf_ldiaf.evaluate` had not been run when this was exported."
    settings = " ".join(dataclasses.replace(config, dataset=config.dataset_name, data_dir="").to_flags())
    edges = ", ".join(f"{a} -> {b} ({w:.2f})" for a, b, w in graph.edges(data="weight")) or "none"
    no_validation = " (the validation images were trained on like the others)" if not config.validation_fraction else ""
    learned = "learned (edge, gate probability)" if config.learns_gates else "fixed"
    return f"""# {name}

A variational autoencoder of {" x ".join(map(str, model.image_shape))} binary images, made with tf_ldiaf.

![samples](samples.png)

## Data

`{config.dataset_name}`, binarisation `{config.binarization}`. Numbers on other binarisations do not compare.

## Method

`{config.method}`: N = {config.num_nodes} nodes of D = {config.node_dim}, T = {config.num_flow_steps} flow steps.
Settings: `{settings}`.
Versions: {", ".join(f"{package} {version}" for package, version in info["versions"].items())}.

## Numbers

{numbers}

ELBO by epoch{no_validation}:

![curves](curves.png)

## Latent graph

Root z{config.num_nodes}; edges from parent to child, {learned}: {edges}.

![graph](graph.png)

## Use

Only TensorFlow is needed:

    import tensorflow as tf
    model = tf.saved_model.load("{name}")
    digits = model.signatures["sample"](num=tf.constant(16), seed=tf.constant(0))["probs"]

Signatures: `sample(num, seed)`, `encode(images)`, `reconstruct(images, seed)`,
`log_likelihood(images, num_importance_samples, seed)` in nats; images are float32
[n, {", ".join(map(str, model.image_shape))}] of 0 and 1.
"""
