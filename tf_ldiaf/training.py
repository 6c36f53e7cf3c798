"""The training of one run: learn the gates, fix them, train again; and how it continues after a stop."""

import sys

import keras

from tf_ldiaf import data, pictures, schedules
from tf_ldiaf.config import Config, ConfigError
from tf_ldiaf.gates import most_probable_graph
from tf_ldiaf.model import LDIAF
from tf_ldiaf.recorder import Recorder, best_row, stopped_early
from tf_ldiaf.run_folder import RunFolder, write_atomically
from tf_ldiaf.tensorboard import TensorBoardLog

_VALIDATION_BATCH = 1000


def train(config: Config, images: data.Images, folder: RunFolder) -> None:
    """Trains, or goes on from the folder's last checkpoint.

    The gates are learned in the structure phase; the most probable graph is then fixed, and a fresh
    model is trained with it in the final phase.

    Args:
        config: the settings.
        images: training and validation images are used, test images are not.
        folder: a run folder that holds `config`.
    """
    steps = data.steps_per_epoch(images.train, config)
    model, rows, gate_epochs = _last_state(folder, steps)
    if model is not None and model.image_shape != images.train.shape[1:]:
        raise ConfigError(
            f"--run_dir must hold a model of {images.train.shape[1:]} images, as {config.dataset} has now. "
            f"Received: one of {model.image_shape}."
        )
    log = TensorBoardLog(folder.tensorboard)
    log.hyper_parameters(config)
    adjacency = None
    if config.learns_gates:
        if model is None or model.gates.fixed is None:
            _run_phase(
                "structure", config, None, config.structure_epochs, images, folder, log, model, rows, gate_epochs
            )
            model = None
        adjacency = most_probable_graph(gate_epochs[-1]["probs"])
        print(f"Learned graph: {_describe(adjacency, gate_epochs[-1]['probs'])}.")
    _run_phase("final", config, adjacency, config.epochs, images, folder, log, model, rows, gate_epochs)
    log.close()
    write_atomically(folder.report_file, _report(config, folder, rows, gate_epochs))
    write_atomically(folder.curves_file, pictures.as_png(pictures.draw_curves(rows)))
    best = best_row(rows, "final")
    print(
        f"Best validation ELBO {best['val_elbo']:.2f} nats, in epoch {best['epoch']:.0f}. "
        f"Next: python -m tf_ldiaf.evaluate --run_dir={folder.path}"
    )


def _run_phase(phase, config, adjacency, num_epochs, images, folder, log, model, rows, gate_epochs):
    """Trains one phase to its end; `model` is the checkpoint to continue from, or None to begin."""
    steps = data.steps_per_epoch(images.train, config)
    first_epoch = 0
    if model is not None:
        first_epoch = _epochs_done(model, steps)
        if first_epoch == num_epochs or stopped_early(rows, phase, config.early_stopping_patience):
            return
    else:
        keras.utils.set_random_seed(config.seed)
        model = LDIAF(config, adjacency).compile(schedules.make_optimizer(config, num_epochs * steps))
        model.build((None, *images.train.shape[1:]))
    what = "learning the gates" if phase == "structure" else "training"
    print(f"{phase.capitalize()} phase: {what}, {num_epochs} epochs of {steps} steps.", flush=True)
    if first_epoch:
        print(f"Continuing after epoch {first_epoch}.", flush=True)
    folder.metrics_file.unlink(missing_ok=True)  # they would speak of weights that are about to change
    recorder = Recorder(folder, phase, rows, gate_epochs, images, log)
    model.fit(
        data.training_launches(images.train, config, first_epoch),
        steps_per_epoch=data.launches_per_epoch(images.train, config),
        initial_epoch=first_epoch,
        epochs=num_epochs,
        validation_data=data.evaluation_batches(images.valid, _VALIDATION_BATCH),
        callbacks=[recorder],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _last_state(folder, steps):
    """The last checkpoint (None if there is none), and the history and gates up to it."""
    if not folder.last.is_file():
        return None, [], []
    try:
        model = keras.models.load_model(folder.last)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{folder.last} must be a checkpoint of this package. Received: {reason}") from None
    phase = "structure" if model.gates.fixed is None else "final"
    epoch = _epochs_done(model, steps)
    rows = folder.read_history()
    while rows and (rows[-1]["phase"], rows[-1]["epoch"]) != (phase, epoch):
        rows.pop()
    if not rows:
        raise ConfigError(
            f"{folder.history_file} must have the row of the last checkpoint, epoch {epoch} of the {phase} phase. "
            "Received: none."
        )
    gate_epochs = folder.read_gates()["epochs"]
    if phase == "structure":
        gate_epochs = gate_epochs[:epoch]
    return model, rows, gate_epochs


def _epochs_done(model, steps):
    return int(model.optimizer.iterations) // steps


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
