"""The training of one run: learn the gates, fix them, train again; and how it continues after a stop."""

import contextlib
import dataclasses
import sys
import tempfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.config import Config, ConfigError
from tf_ldiaf.data import images as data
from tf_ldiaf.data.records import Records
from tf_ldiaf.execution import stopping
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.layers.gates import most_probable_graph
from tf_ldiaf.layers.networks import CELL
from tf_ldiaf.model import schedules
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import checkpoints, pictures
from tf_ldiaf.results.checkpoints import Progress
from tf_ldiaf.results.run_folder import RunFolder, write_atomically
from tf_ldiaf.training.recorder import Recorder, best_row, stopped_early
from tf_ldiaf.training.tensorboard import TensorBoardLog

_VALIDATION_BATCH = 1000


def check(config: Config, images: data.Images, strategy) -> None:
    """What can be known to be wrong before a run folder is made.

    Args:
        config, images, strategy: as for `train`.

    Raises:
        ConfigError: batches that the devices cannot share, or images that convolutions cannot take.
    """
    num_replicas = strategy.num_replicas_in_sync
    batch_size = min(config.batch_size, len(images.train))
    if batch_size % num_replicas:
        raise ConfigError(f"--batch_size must be a multiple of the {num_replicas} devices. Received: {batch_size}.")
    shape = images.valid.shape[1:]
    if config.channels and any(side % CELL for side in shape):
        raise ConfigError(
            f"--channels needs images whose height and width are multiples of {CELL}. "
            f"Received: {' x '.join(map(str, shape))}, of {config.dataset}."
        )


def train(config: Config, images: data.Images, folder: RunFolder, strategy=None) -> None:
    """Trains, or goes on from the folder's last checkpoint.

    The gates are learned in the structure phase; the most probable graph is then fixed, and a fresh
    model is trained with it in the final phase.

    Args:
        config: the settings.
        images: training and validation images are used, test images are not.
        folder: a run folder that holds `config`. All workers of a cluster read it; only the chief writes it.
        strategy: what `distribution.make_strategy` made, or None: one device.
    """
    strategy = strategy or tf.distribute.get_strategy()
    is_chief, checksum = distribution.is_chief(strategy), _checksum(images)
    # Before anything is read: the chief may just have replaced a run.
    distribution.check_agreement(strategy, repr((dataclasses.replace(config, data_dir=""), checksum)))
    with stopping.deferred(), strategy.scope():  # Keras would take Ctrl-C for damage
        found = checkpoints.read(folder, mends=is_chief)
    first_phase = "structure" if config.learns_gates else "final"
    model, progress = found or (None, Progress(first_phase, 0, 0, [], [], [], checksum))
    if model is not None:
        _check(model, progress, config, images, folder)
        model.config = config
        if progress.launch and strategy.num_replicas_in_sync > 1:
            raise ConfigError(
                "--distribute must be none until the epoch is finished that a run was stopped in. "
                f"Received: {config.distribute}."
            )
    distribution.check_agreement(strategy, repr((progress.phase, progress.epoch, len(progress.rows))))
    with contextlib.ExitStack() as held:
        if not is_chief:
            # Keras wants every worker to save; what is not the chief's goes.
            folder = RunFolder(held.enter_context(tempfile.TemporaryDirectory()))
        _train(config, images, folder, strategy, model, progress)


def _train(config, images, folder, strategy, model, progress):
    rows, gate_epochs, checksum = progress.rows, progress.gate_epochs, progress.images
    if model is not None:
        folder.write_history(rows)
        folder.write_gates(gate_epochs, model.gates.get_config()["adjacency"])
    log = TensorBoardLog(folder.tensorboard, len(rows))
    if not rows:
        log.hyper_parameters(config)
    if progress.phase == "structure":
        _run_phase(config, None, config.structure_epochs, images, folder, strategy, log, model, progress)
        model, progress = None, Progress("final", 0, 0, [], rows, gate_epochs, checksum)
    adjacency = None
    if config.learns_gates:
        adjacency = most_probable_graph(gate_epochs[-1]["probs"])
        print(f"Learned graph: {_describe(adjacency, gate_epochs[-1]['probs'])}.")
    _run_phase(config, adjacency, config.epochs, images, folder, strategy, log, model, progress)
    log.close()
    write_atomically(folder.report_file, _report(config, folder, rows, gate_epochs))
    write_atomically(folder.curves_file, pictures.as_png(pictures.draw_curves(rows)))
    best = best_row(rows, "final")
    print(
        f"Best validation ELBO {best['val_elbo']:.2f} nats, in epoch {best['epoch']:.0f}. "
        f"Next: python -m tf_ldiaf.evaluate --run_dir={folder.path}"
    )


def _checksum(images):
    train = images.train
    checksum = train.checksum() if isinstance(train, Records) else zlib.crc32(np.ascontiguousarray(train).data)
    return zlib.crc32(np.ascontiguousarray(images.valid).data, checksum)


def _check(model, progress, config, images, folder):
    if model.image_shape != images.train.shape[1:]:
        raise ConfigError(
            f"--run_dir must hold a model of {images.train.shape[1:]} images, as {config.dataset} has now. "
            f"Received: one of {model.image_shape}."
        )
    theirs, ours = (vars(c) | dict.fromkeys(Config.CHANGEABLE) for c in (model.config, config))
    changed = [name for name in ours if ours[name] != theirs[name]]
    if changed:
        before, after = (", ".join(f"{name} {c[name]}" for name in changed) for c in (theirs, ours))
        raise ConfigError(
            f"{folder.config_file} must have the settings of the run's checkpoints, {before}. Received: {after}."
        )
    if progress.images != _checksum(images):
        raise ConfigError(
            f"--run_dir must be resumed with the images that it began with. Received: {config.dataset}, which has "
            "others now."
        )


def _run_phase(config, adjacency, num_epochs, images, folder, strategy, log, model, progress):
    """Trains one phase to its end; `model` is the checkpoint to continue from, or None to begin."""
    if progress.epoch == num_epochs or stopped_early(progress.rows, progress.phase, config.early_stopping_patience):
        return
    steps, launches = data.steps_per_epoch(images.train, config), data.launches_per_epoch(images.train, config)
    if strategy.num_replicas_in_sync > 1:  # which meet between steps
        launches, batches = steps, data.training_batches(images.train, config, progress.epoch, strategy)
    else:
        batches = data.training_launches(images.train, config, progress.epoch, progress.launch)
    what = "learning the gates" if progress.phase == "structure" else "training"
    print(f"{progress.phase.capitalize()} phase: {what}, {num_epochs} epochs of {steps} steps.", flush=True)
    if model is not None:
        print(f"Continuing after {progress.launch / launches + progress.epoch:.4g} epochs.", flush=True)
    else:
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            model = LDIAF(config, adjacency).compile(schedules.make_optimizer(config, num_epochs * steps))
            model.build((None, *images.train.shape[1:]))
    folder.metrics_file.unlink(missing_ok=True)  # they would speak of weights that are about to change
    # Not two fits where an epoch has been begun: Keras puts averaged weights in place at the end of each.
    reading = images.train.readable() if isinstance(images.train, Records) else contextlib.nullcontext()
    with stopping.deferred() as request, reading:
        model.fit(
            batches,
            steps_per_epoch=launches,
            initial_epoch=progress.epoch,
            epochs=num_epochs,
            validation_data=data.evaluation_batches(images.valid, _VALIDATION_BATCH, strategy),
            validation_steps=data.num_evaluation_batches(images.valid, _VALIDATION_BATCH, strategy),
            callbacks=[Recorder(folder, progress, images, log, request)],
            verbose=1 if sys.stdout.isatty() else 2,
        )


def _describe(adjacency, probs):
    edges = pictures.latent_graph(adjacency, probs).edges(data="weight")
    return ", ".join(f"{parent} -> {child} ({weight:.2f})" for parent, child, weight in edges) or "no edges"


def _report(config, folder, rows, gate_epochs):
    best = best_row(rows, "final")
    lines = [
        f"# {config.method} on {config.dataset}",
        "",
        f"Settings: `{' '.join(config.to_flags())}`",
        "",
        "| | |",
        "|---|---|",
        f"| best validation ELBO | {best['val_elbo']:.3f} nats, final phase, epoch {best['epoch']:.0f} |",
        f"| its reconstruction term | {best['val_reconstruction']:.3f} nats |",
        f"| its KL term | {best['val_kl']:.3f} nats |",
        f"| training ELBO in that epoch | {best['elbo']:.3f} nats |",
        f"| active units | {best['val_active_units']:.0f} of {config.num_nodes * config.node_dim} |",
        f"| epochs | {len(rows)} |",
        "",
    ]
    if gate_epochs:
        probs = gate_epochs[-1]["probs"]
        lines += [
            f"Learned graph, parent -> child (gate probability): {_describe(most_probable_graph(probs), probs)}.",
            "",
        ]
    commands = (f"python -m tf_ldiaf.{name} --run_dir={folder.path}" for name in ("evaluate", "export"))
    if config.edges:
        edges = ", ".join(f"z{parent} -> z{child}" for parent, child in config.fixed_edges)
        lines += [f"Given graph, parent -> child: {edges or 'no edges'}.", ""]
    lines += [f"![ELBO by epoch]({folder.curves_file.name})", ""]
    return "\n".join([*lines, "Test numbers and a SavedModel:", "", *(f"    {command}" for command in commands), ""])
