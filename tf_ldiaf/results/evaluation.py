"""Numbers of a trained run on its test images."""

import dataclasses
import sys
import typing
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf import data, structure
from tf_ldiaf.errors import ConfigError, DataError, FileError, NonFiniteError
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.model.metrics import ActiveUnits
from tf_ldiaf.probability import bounds
from tf_ldiaf.results import checkpoints
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.structure.refits import mean_and_stderr


def load_best(folder: RunFolder) -> LDIAF:
    """The run's weights of the best validation ELBO.

    Raises:
        FileError: the folder is not a run, or has no usable checkpoint yet.
    """
    folder.read_config()
    if not folder.best.is_file():
        raise FileError(f"`run_dir` must hold a trained model. Received: {folder.path}, which has no checkpoint yet.")
    model = checkpoints.load(folder.best, compile=False)
    if model.gates.fixed is None:
        raise FileError(
            f"`run_dir` must hold a run whose final phase has begun. Received: {folder.path}, which was still "
            "learning its gates; the command train continues it."
        )
    return model


def evaluate(
    folder: RunFolder,
    num_importance_samples: int,
    batch_size: int,
    seed: int = 0,
    dataset: str = "",
    data_dir: str = "",
    strategy: typing.Any = None,
    edge_worth: bool = False,
) -> dict:
    """Evaluates the best weights of a run on its test images.

    Args:
        folder: the run.
        num_importance_samples: S.
        batch_size: images at a time.
        seed: seed of the draws.
        dataset: where the images are now; as in the run by default.
        data_dir: where TFDS keeps its data sets; as in the run by default.
        strategy: what `distribution.make_strategy` made, or None: one device.
        edge_worth: whether to measure, too, what each edge is worth (`structure.edge_worth`), by training further with
            the run's training images.

    Raises:
        ConfigError: `edge_worth` on several devices, of a streamed data set, or of one test image.
        FileError, CheckpointError: the folder has no usable model.
        DataError: the images cannot be read, or are not those that were there when the run was trained.
        NonFiniteError: a bound is infinite or not a number.
        WorkerError: the workers of a cluster do not agree.

    Returns:
        The metrics, ready for JSON: `test_elbo`, `test_log_likelihood` and their parts in nats with
        `_stderr` (standard error of the mean over images), and what they were measured on.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if edge_worth and strategy.num_replicas_in_sync > 1:
        raise ConfigError(
            f"`edge_worth` needs one device. Received: {strategy.num_replicas_in_sync}, with `distribute`."
        )
    best_checksum = folder.best_checksum()  # first: a training may write others while these are measured
    with strategy.scope():
        model = load_best(folder)
    config = folder.read_config()
    config = dataclasses.replace(config, dataset=dataset or config.dataset, data_dir=data_dir or config.data_dir)
    images = data.load_test(config)
    if len(model.image_shape) == 3:
        images = data.as_coloured(images)
    if folder.read_info().get("test_checksum") not in (None, data.test_checksum(config)):
        raise DataError(
            "`dataset` must have the test images that were there when the run was trained. Received: "
            f"{config.dataset}, whose test images are others now."
        )
    print(data.described(config, images), flush=True)
    checkpoints.check_image_shape(model.image_shape, images.shape[1:], config.dataset)
    train = _training_images(folder, config, images) if edge_worth else None
    stand = zlib.crc32(np.ascontiguousarray(images).data), best_checksum
    distribution.check_agreement(strategy, repr((num_importance_samples, batch_size, seed, *stand)))
    values = per_image(model, images, num_importance_samples, batch_size, seed, strategy, config.jit_compile)
    active = ActiveUnits((model.num_nodes, model.node_dim))
    active.update_state(values["innovations"])

    if not all(np.isfinite(value).all() for value in values.values()):
        raise NonFiniteError(f"`run_dir` must hold a model with finite bounds. Received: {folder.path}, which has not.")
    metrics: dict[str, typing.Any] = {}
    for name in ("elbo", "log_likelihood", "reconstruction"):
        metrics[f"test_{name}"], metrics[f"test_{name}_stderr"] = _mean_and_stderr(values[name])
    metrics["test_effective_samples"], _ = _mean_and_stderr(values["effective_samples"])
    kl = values["kl_per_node"]
    metrics["test_kl"], metrics["test_kl_stderr"] = _mean_and_stderr(kl.sum(axis=1))
    metrics["test_kl_per_node"] = [float(node) for node in kl.mean(axis=0, dtype="float64")]
    if edge_worth:
        metrics["test_edge_worth"] = _edge_worth(model, config, train, images, seed)
    for name, nats in (("elbo_bits_per_dim", "elbo"), ("bits_per_dim", "log_likelihood")):
        stderr = metrics[f"test_{nats}_stderr"]
        metrics[f"test_{name}"] = bounds.bits_per_dim(metrics[f"test_{nats}"], model.num_dims)
        metrics[f"test_{name}_stderr"] = None if stderr is None else bounds.bits_per_dim(-stderr, model.num_dims)
    return metrics | {
        "active_units": int(active.result()),
        "latent_dimensions": model.num_nodes * model.node_dim,
        "num_importance_samples": num_importance_samples,
        "num_images": len(images),
        "seed": seed,
        "num_parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "dataset": config.dataset_name,
        "likelihood": config.likelihood,
        "binarization": config.binarization,
        "method": config.method,
        "best_checksum": best_checksum,
    }


def with_worth(metrics: dict, folder: RunFolder) -> dict:
    """Adds what edges were worth in an earlier evaluation, if the weights are the same and it was not measured now."""
    if not folder.metrics_file.is_file() or "test_edge_worth" in metrics:
        return metrics
    try:
        earlier = folder.read_metrics()
        is_same = earlier["best_checksum"] == metrics["best_checksum"]
        return metrics | {"test_edge_worth": earlier["test_edge_worth"]} if is_same else metrics
    except (FileError, KeyError, TypeError):  # damaged, or without worths
        return metrics


def _training_images(folder, config, images):
    """Those to measure edges with; what stands in the way is said before anything slow is done."""
    if config.stream:
        raise ConfigError("`edge_worth` needs training images in memory. Received: a run with `stream`.")
    if len(images) < 2:
        raise ConfigError("`edge_worth` needs two test images or more, for an error. Received: one.")
    found = data.load_training(config, config.seed)
    info = folder.read_info()
    if any(info.get(f"{split}_checksum") not in (None, of_one) for split, of_one in found.checksums().items()):
        raise DataError(
            "`dataset` must have the training images that were there when the run was trained, for `edge_worth`. "
            f"Received: {config.dataset}, whose training images are others now."
        )
    return found.train


def _edge_worth(model, config, train, images, seed):
    """What each edge is worth on the test images, for JSON."""
    found = structure.edge_worth(
        *(model, train, images),
        weight_decay=config.weight_decay,
        binarization=config.binarization,
        seed=seed,
        jit_compile=config.jit_compile,
    )
    numbers = np.array([found.nats, found.stderr])
    if not all(np.isfinite(numbers[:, child - 1, parent - 1]).all() for parent, child in model.edges):
        raise NonFiniteError("`edge_worth` must find finite bounds. Received: others, when an edge was shut.")
    return [
        {"parent": parent, "child": child, "nats": float(nats[0]), "stderr": float(nats[1])}
        for parent, child in model.edges
        for nats in [(found.nats[child - 1, parent - 1], found.stderr[child - 1, parent - 1])]
    ]


def per_image(
    model: LDIAF,
    images: np.ndarray,
    num_importance_samples: int,
    batch_size: int,
    seed: int,
    strategy: typing.Any = None,
    jit_compile: bool = True,
) -> dict[str, np.ndarray]:
    """`LDIAF.bounds` of every image, batch by batch, with a progress bar; every worker of a cluster has all of them.

    The last batch is filled up, so that one compilation serves all.
    """
    strategy = strategy or tf.distribute.get_strategy()
    is_alone = strategy.num_replicas_in_sync == 1
    step = bounds_of = model.compiled_bounds(num_importance_samples, seed, jit_compile)

    def on_replica(x, first):
        return tf.nest.map_structure(tf.identity, bounds_of(x, first))  # tensors that know their device

    if not is_alone:
        step = tf.function(lambda x, first: strategy.run(on_replica, (x, first)), autograph=False)
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
    """The mean and its standard error, which one image does not have: None."""
    mean, stderr = mean_and_stderr(values)
    return float(mean), float(stderr) if len(values) > 1 else None
