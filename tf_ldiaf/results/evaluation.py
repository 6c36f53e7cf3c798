"""Numbers of a trained run on its test images."""

import dataclasses
import sys
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.config import ConfigError
from tf_ldiaf.data import images as data
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.model.metrics import ActiveUnits
from tf_ldiaf.probability import bounds
from tf_ldiaf.results import checkpoints
from tf_ldiaf.results.run_folder import RunFolder


def load_best(folder: RunFolder) -> LDIAF:
    """The run's weights of the best validation ELBO.

    Raises:
        ConfigError: the folder is not a run, or has no usable checkpoint yet.
    """
    folder.read_config()
    if not folder.best.is_file():
        raise ConfigError(f"--run_dir must hold a trained model. Received: {folder.path}, which has no checkpoint yet.")
    model = checkpoints.load(folder.best, compile=False)
    if model.gates.fixed is None:
        raise ConfigError(
            f"--run_dir must hold a run whose final phase has begun. Received: {folder.path}, which was still "
            "learning its gates; --resume continues it."
        )
    return model


def evaluate(
    folder: RunFolder, num_importance_samples: int, batch_size: int, seed: int = 0, data_dir: str = "", strategy=None
) -> dict:
    """Evaluates the best weights of a run on its test images.

    Args:
        folder: the run.
        num_importance_samples: S.
        batch_size: images at a time.
        seed: seed of the draws.
        data_dir: where TFDS keeps its data sets; as in the run by default.
        strategy: what `distribution.make_strategy` made, or None: one device.

    Returns:
        The metrics, ready for JSON: `test_elbo`, `test_log_likelihood` and their parts in nats with
        `_stderr` (standard error of the mean over images), and what they were measured on.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = load_best(folder)
    config = folder.read_config()
    images = data.load(dataclasses.replace(config, data_dir=data_dir or config.data_dir)).test
    if images.shape[1:] != model.image_shape:
        raise ConfigError(
            f"--run_dir must hold a model of {images.shape[1:]} images, as {config.dataset} has now. "
            f"Received: one of {model.image_shape}."
        )
    stand = zlib.crc32(np.ascontiguousarray(images).data), zlib.crc32(folder.best.read_bytes())
    distribution.check_agreement(strategy, repr((num_importance_samples, batch_size, seed, *stand)))
    values = per_image(model, images, num_importance_samples, batch_size, seed, strategy)
    active = ActiveUnits((config.num_nodes, config.node_dim))
    active.update_state(values["innovations"])

    metrics = {}
    for name in ("elbo", "log_likelihood", "reconstruction"):
        metrics[f"test_{name}"], metrics[f"test_{name}_stderr"] = _mean_and_stderr(values[name])
    kl = values["kl_per_node"]
    metrics["test_kl"], metrics["test_kl_stderr"] = _mean_and_stderr(kl.sum(axis=1))
    metrics["test_kl_per_node"] = [float(node) for node in kl.mean(axis=0, dtype="float64")]
    metrics["test_bits_per_dim"] = bounds.bits_per_dim(metrics["test_log_likelihood"], int(np.prod(model.image_shape)))
    return metrics | {
        "active_units": int(active.result()),
        "latent_dimensions": config.num_nodes * config.node_dim,
        "num_importance_samples": num_importance_samples,
        "num_images": len(images),
        "seed": seed,
        "num_parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "dataset": config.dataset_name,
        "binarization": config.binarization,
        "method": config.method,
    }


def per_image(
    model: LDIAF, images, num_importance_samples: int, batch_size: int, seed: int, strategy=None
) -> dict[str, np.ndarray]:
    """`LDIAF.bounds` of every image, batch by batch, with a progress bar; every worker of a cluster has all of them.

    The last batch is filled up, so that one compilation serves all.
    """
    strategy = strategy or tf.distribute.get_strategy()

    def on_replica(x, first):
        return model.on_replica(lambda x, first: model.bounds(x, num_importance_samples, seed, first), x, first)

    is_alone = strategy.num_replicas_in_sync == 1
    step = tf.function(
        lambda x, first: strategy.run(on_replica, args=(x, first)),
        jit_compile=model.config.jit_compile and is_alone,
        autograph=False,
    )
    batches = data.evaluation_batches(images, batch_size, strategy)
    num_batches = data.num_evaluation_batches(images, batch_size, strategy)
    progress = keras.utils.Progbar(num_batches, verbose=1 if sys.stdout.isatty() else 2, unit_name="batch")
    size = data.evaluation_batch_size(images, batch_size, strategy)
    parts = []
    for i, (x, _, _) in enumerate(batches):
        values = step(x, tf.constant(i * size))
        if not is_alone:
            values = {name: strategy.gather(value, axis=0) for name, value in values.items()}
        parts.append({name: value.numpy() for name, value in values.items()})
        progress.update(i + 1)
    return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}


def _mean_and_stderr(values):
    values = np.asarray(values, "float64")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def table(metrics: dict) -> str:
    """The metrics for the screen and for model cards, as a Markdown table."""
    num, samples = metrics["num_images"], metrics["num_importance_samples"]

    def with_error(name):
        return f"{metrics[f'test_{name}']:.2f} +- {metrics[f'test_{name}_stderr']:.2f}"

    rows = [
        ("method", metrics["method"]),
        ("data", f"{metrics['dataset']}, {metrics['binarization']}, {num} test images"),
        ("ELBO", f"{with_error('elbo')} nats"),
        (f"log-likelihood, S = {samples}", f"{with_error('log_likelihood')} nats"),
        ("bits per dimension", f"{metrics['test_bits_per_dim']:.4f}"),
        ("reconstruction", f"{with_error('reconstruction')} nats"),
        ("KL", f"{with_error('kl')} nats"),
        *((f"KL of z{n + 1}", f"{kl:.2f} nats") for n, kl in enumerate(metrics["test_kl_per_node"])),
        ("active units", f"{metrics['active_units']} of {metrics['latent_dimensions']}"),
        ("parameters", f"{metrics['num_parameters']:,}"),
        ("seed of the draws", str(metrics["seed"])),
    ]
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    head, *lines = [f"| {name:<{left}} | {value:<{right}} |" for name, value in rows]
    return "\n".join([head, f"|{'-' * (left + 2)}|{'-' * (right + 2)}|", *lines])
