"""The training of one run: learn the gates, fix them, train again; and how it continues after a stop."""

import contextlib
import dataclasses
import tempfile
import time
import typing
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf import data, structure
from tf_ldiaf.config import Config
from tf_ldiaf.errors import CheckpointError, ConfigError
from tf_ldiaf.execution import stopping
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.layers.encoders import coarsest_cell
from tf_ldiaf.layers.gates import edges_of, most_probable_graph
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.model.schedules import epochs_without_edges
from tf_ldiaf.model.trainer import Objective
from tf_ldiaf.paths import shown
from tf_ldiaf.results import checkpoints, evaluation, pictures, report
from tf_ldiaf.results.checkpoints import Progress
from tf_ldiaf.results.files import write_atomically
from tf_ldiaf.results.run_folder import RunFolder, best_row
from tf_ldiaf.structure.refits import REFIT_STEPS
from tf_ldiaf.training.optimizers import make_optimizer
from tf_ldiaf.training.progress import ProgressLines
from tf_ldiaf.training.recorder import Recorder, stopped_early
from tf_ldiaf.training.tensorboard import TensorBoardLog

_VALIDATION_BATCH, _MOST_NUMBERS = 1000, 2**26  # images at a time; and what the decoder may give of them
_SAMPLES, _RECONSTRUCTIONS = 64, 32  # in the report


def check(config: Config, images: data.TrainingImages, strategy: tf.distribute.Strategy) -> None:
    """What can be known to be wrong before a run folder is made.

    Args:
        config, images, strategy: as for `train`.

    Raises:
        ConfigError: batches that the devices cannot share, or images that convolutions cannot take.
    """
    num_replicas = strategy.num_replicas_in_sync
    batch_size = min(config.batch_size, len(images.train))
    if batch_size % num_replicas:
        raise ConfigError(f"`batch_size` must be a multiple of the {num_replicas} devices. Received: {batch_size}.")
    shape = images.valid.shape[1:]
    if config.channels and any(side % coarsest_cell(config.channels) for side in shape[:2]):
        raise ConfigError(
            f"`channels` needs images whose height and width are multiples of {coarsest_cell(config.channels)}. "
            f"Received: {' x '.join(map(str, shape))}, of {config.dataset}."
        )


def make_model(
    config: Config, edges: list[tuple[int, int]] | None, image_shape: tuple[int, ...], num_epochs: int, num_steps: int
) -> LDIAF:
    """The model of one phase as it begins, compiled and built.

    Args:
        config: the settings.
        edges: pairs (parent, child) of the graph that was learned. None: that of the settings, or to be learned.
        image_shape: (H, W).
        num_epochs, num_steps: epochs of the phase, and training steps of an epoch.
    """
    keras.utils.set_random_seed(config.seed)
    model = LDIAF.from_settings(config, edges)
    objective = {name: getattr(config, name) for name in Objective._fields}
    restart = epochs_without_edges(num_epochs) * num_steps if model.gates.fixed is None else 0
    optimizer = make_optimizer(config, num_epochs * num_steps, restart)
    model.compile(optimizer, **objective, jit_compile=config.jit_compile)
    model.build((None, *image_shape))
    return model


def train(config: Config, images: data.TrainingImages, folder: RunFolder, strategy: typing.Any = None) -> None:
    """Trains, or goes on from the folder's last checkpoint.

    The gates are learned in the structure phase. Of the most probable graph, the edges that are not worth their price
    are then removed (`structure.remove_edges`). With what is left a fresh model is trained in the final phase.

    Args:
        config: the settings.
        images: what is trained and validated on.
        folder: a run folder that holds `config`. All workers of a cluster read it; only the chief writes it.
        strategy: what `distribution.make_strategy` made, or None: one device.

    Raises:
        CheckpointError: the folder's checkpoints are damaged, or of other settings or images.
        ConfigError: settings with which the run cannot go on.
        NonFiniteError: training diverged.
        FileError: the folder cannot be written.
        WorkerError: the workers of a cluster do not agree.
    """
    strategy = strategy or tf.distribute.get_strategy()
    is_chief, shape = distribution.is_chief(strategy), images.train.shape[1:]
    checksum = zlib.crc32(np.ascontiguousarray(images.valid).data, images.checksums()["train"])
    # Before anything is read: the chief may just have replaced a run.
    distribution.check_agreement(strategy, repr((dataclasses.replace(config, data_dir=""), checksum)))
    start = Progress("structure" if config.learns_gates else "final", 0, 0, [], [], [], list(shape), checksum, [], None)
    path, progress = checkpoints.read(folder, mends=is_chief) or (None, start)
    distribution.check_agreement(strategy, repr((progress.phase, progress.epoch, len(progress.rows))))
    checkpoints.check_image_shape(tuple(progress.image_shape), shape, config.dataset)
    if progress.images != checksum:
        raise CheckpointError(
            f"`run_dir` must be resumed with the images that it began with. Received: {config.dataset}, which has "
            "others now."
        )
    if progress.rows and "seconds" not in progress.rows[0]:
        raise CheckpointError(
            f"`run_dir` must be resumed with the version that began it. Received: {folder.path}, of an earlier version."
        )
    epochs_before = folder.read_config().epochs
    is_longer = epochs_before < config.epochs
    if is_longer and stopped_early(progress.rows, "final", config):
        raise ConfigError(
            f"`epochs` makes no run longer that early stopping has ended. Received: {config.epochs} for one of "
            f"{len(progress.rows)}."
        )
    if is_chief:
        folder.check_pictures()
        folder.keep_changes(config)
        if is_longer and config.learning_rate_schedule == "cosine":
            print(f"The learning rate is now that of {config.epochs} epochs, and no longer that of {epochs_before}.")
    if progress.launch and strategy.num_replicas_in_sync > 1:
        raise ConfigError(
            "`distribute` must be none until the epoch is finished that a run was stopped in. "
            f"Received: {config.distribute}."
        )
    run = _Run(config, images, folder, strategy)
    model = None if path is None else run.model_of(progress, path)
    with contextlib.ExitStack() as held:
        if not is_chief:
            # Keras wants every worker to save; what is not the chief's goes.
            scratch = RunFolder(held.enter_context(tempfile.TemporaryDirectory()))
            run = dataclasses.replace(run, folder=scratch)
        run.train(model, progress)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What both phases share; see `train`."""

    config: Config
    images: data.TrainingImages
    folder: RunFolder
    strategy: tf.distribute.Strategy
    began: float = dataclasses.field(default_factory=time.monotonic)

    def lengths(self, phase):
        """Epochs of a phase, and steps of an epoch."""
        num_epochs = self.config.structure_epochs if phase == "structure" else self.config.epochs
        return num_epochs, data.steps_per_epoch(self.images.train, self.config.batch_size)

    @property
    def refit_steps(self):
        """Steps of each training by which edges are measured: at most as many as the model trained with edges."""
        num_epochs, steps = self.lengths("structure")
        return min(REFIT_STEPS, (num_epochs - epochs_without_edges(num_epochs)) * steps)

    def epochs_after(self, phase):
        """Epochs that come after a phase. Measuring edges counts as epochs that take as long: each of them twice."""
        if phase == "final":
            return 0.0
        num_epochs, steps = self.lengths("final")
        return num_epochs + self.config.num_nodes * (self.config.num_nodes - 1) * self.refit_steps / steps

    def model_of(self, progress, checkpoint=None):
        """The model of a phase as it begins, or as it was in a checkpoint."""
        edges = None
        if self.config.learns_gates and progress.phase == "final":
            edges = edges_of(most_probable_graph(progress.gate_epochs[-1]["probs"]))
            edges = edges if progress.edges is None else [tuple(edge) for edge in progress.edges]
        with self.strategy.scope():
            model = make_model(self.config, edges, self.images.train.shape[1:], *self.lengths(progress.phase))
            if checkpoint is not None:
                checkpoints.load_state(model, checkpoint)
        return model

    def train(self, model, progress):
        """All that is left to be trained; `model` is the one to go on with, or None to begin."""
        config, folder, rows, gate_epochs = self.config, self.folder, progress.rows, progress.gate_epochs
        log = TensorBoardLog(folder.tensorboard, len(rows))
        if model is not None:
            folder.write_history(rows)
        if not rows:
            log.hyper_parameters(config)
        if progress.phase == "structure":
            folder.write_gates(gate_epochs)
            model = self.train_phase(model, progress, log)
            edges, measured = self.remove_edges(model, progress)
            model, found = None, {"measured": measured, "edges": edges}
            progress = progress._replace(phase="final", epoch=0, launch=0, counters=[], **found)
        if model is None:
            model = self.model_of(progress)
        adjacency, edges = self.decided(model, progress)
        folder.write_gates(gate_epochs, adjacency, edges)
        learned = self.graph(model, progress)
        if config.learns_gates:
            print(report.graph_text(config, learned))
        model = self.train_phase(model, progress, log, learned)
        if distribution.is_chief(self.strategy):
            self.write_report(model, progress, log)
        log.close()
        distribution.of_chief(self.strategy, np.zeros(1, "float32"))  # the others wait here, where no time is limited

    def decided(self, model, progress):
        """The adjacency that the final phase trains with, and why each edge that could be learned is in it or not."""
        adjacency = model.gates.adjacency().numpy().tolist()
        if not self.config.learns_gates:
            return adjacency, []
        worths = [structure.Measured(*one) for one in progress.measured]
        return adjacency, report.edge_decisions(progress.gate_epochs[-1]["probs"], worths, model.edges)

    def graph(self, model, progress, kl=None):
        """The graph that the final phase trains with, a `pictures.latent_graph`."""
        probs = progress.gate_epochs[-1]["probs"] if self.config.learns_gates else None
        return pictures.learned_graph(*self.decided(model, progress), probs, kl)

    def write_report(self, model, progress, log):
        """The run on one page and in TensorBoard, and what came out of it for who sits before the terminal."""
        config, folder, rows = self.config, self.folder, progress.rows
        folder.check_in_place()
        best = best_row(rows, "final")
        kl = [best[f"val_kl_node_{n + 1}"] for n in range(config.num_nodes)]
        graph = self.graph(model, progress, kl)
        model, valid = evaluation.load_best(folder), self.images.valid[:_RECONSTRUCTIONS]
        reconstructions, ink = model.reconstruct(valid, seed=0)["probs"], config.is_binary
        drawn = {
            folder.curves_file: pictures.draw_curves(rows),
            folder.graph_file: pictures.draw_graph(graph),
            folder.samples_file: pictures.grid(model.sample(_SAMPLES, seed=0)["probs"], ink=ink),
            folder.reconstructions_file: pictures.pairs(model.shown(valid), reconstructions, ink=ink),
        }
        if config.decoder == "additive":
            drawn[folder.nodes_file] = pictures.node_pictures(model)
        for file, picture in drawn.items():
            write_atomically(file, pictures.as_png(picture))
        write_atomically(folder.report_file, report.run_report(config, folder, rows, graph, model.num_dims))
        log.best(len(rows), best)
        log.codes(model, self.images.valid)
        took = report.clock(time.monotonic() - self.began)
        print(
            f"Best validation ELBO {best['val_elbo']:.2f} nats, in epoch {best['epoch']:.0f}. This command took {took}."
        )
        if len(graph) > 1:
            print(report.graph_text(config, graph))
        print(f"Report: {folder.report_file}\nNext: python -m tf_ldiaf.evaluate --run_dir={shown(folder.path)}")

    def remove_edges(self, model, progress):
        """The edges that are worth their price, and all that was measured of them; `model` is that of the gates.

        It is kept after each edge. A run that goes on does not measure again.
        """
        config, images = self.config, self.images
        # As a training that is not resumed has them at its end.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        if not model.edges or len(images.valid) < 2:
            if model.edges:
                print("No edge is measured: that takes two validation images.")
            return model.edges, []
        fixed = structure.with_edges(model, model.edges)
        print(f"Edges to measure: {len(fixed.edges)}. Each must be worth {config.edge_cost} nats.", flush=True)
        reading = images.train.readable() if isinstance(images.train, data.Records) else contextlib.nullcontext()
        at_the_end = progress._replace(epoch=int(progress.rows[-1]["epoch"]), launch=0, counters=[])
        with stopping.deferred() as request, reading:

            def keep(history):
                last = history[-1]
                print(f"z{last.parent} -> z{last.child}: {last.nats:.3f} +- {last.stderr:.3f} nats.", flush=True)
                checkpoints.write(model, at_the_end._replace(measured=history), self.folder)
                request.obey()

            found = structure.remove_edges(
                *(fixed, images.train, images.valid),
                edge_cost=config.edge_cost,
                history=[structure.Measured(*one) for one in progress.measured],
                on_measured=keep,
                num_steps=self.refit_steps,
                weight_decay=config.weight_decay,
                binarization=config.binarization,
                seed=config.seed,
                jit_compile=config.jit_compile,
            )
        left = np.array([edge in found.edges for edge in fixed.edges], "float32")
        left = distribution.of_chief(self.strategy, left)  # devices may round differently
        return [edge for edge, is_left in zip(fixed.edges, left, strict=True) if is_left], found.history

    def train_phase(self, model, progress, log, learned=None):
        """Trains one phase to its end, and returns its model; `model` as of `train`."""
        config, images, strategy = self.config, self.images, self.strategy
        num_epochs, steps = self.lengths(progress.phase)
        if progress.epoch == num_epochs or stopped_early(progress.rows, progress.phase, config):
            return model
        launches = data.launches_per_epoch(images.train, config.batch_size, config.steps_per_execution)
        order = {"batch_size": config.batch_size, "seed": config.seed, "first_epoch": progress.epoch}
        if strategy.num_replicas_in_sync > 1:  # which meet between steps
            launches, batches = steps, data.training_batches(images.train, **order, strategy=strategy)
        else:
            batches = data.training_launches(
                images.train, **order, steps_per_launch=config.steps_per_execution, first_launch=progress.launch
            )
        what = "learning the gates" if progress.phase == "structure" else "training"
        print(f"{progress.phase.capitalize()} phase: {what}, {num_epochs} epochs of {steps} steps.", flush=True)
        if progress.epoch or progress.launch:
            print(f"Continuing after {progress.launch / launches + progress.epoch:.4g} epochs.", flush=True)
        model = model or self.model_of(progress)
        self.folder.goes_on()
        # Not two fits where an epoch has been begun: Keras puts averaged weights in place at the end of each.
        reading = images.train.readable() if isinstance(images.train, data.Records) else contextlib.nullcontext()
        size = max(1, min(_VALIDATION_BATCH, _MOST_NUMBERS // model.numbers_per_image))
        lines = ProgressLines(progress.phase, progress.rows, self.began, self.epochs_after(progress.phase))
        with stopping.deferred() as request, reading, lines.bar:
            model.fit(
                batches,
                steps_per_epoch=launches,
                initial_epoch=progress.epoch,
                epochs=num_epochs,
                validation_data=data.evaluation_batches(images.valid, size, strategy),
                validation_steps=data.num_evaluation_batches(images.valid, size, strategy),
                callbacks=[Recorder(self.folder, config, progress, images, log, request, learned), lines],
                verbose=0,
            )
        return model
