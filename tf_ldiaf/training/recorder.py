"""What is kept of every epoch: history, gates, checkpoints, TensorBoard."""

import signal
import time
import typing

import keras
import networkx as nx

from tf_ldiaf import data
from tf_ldiaf.config import Config
from tf_ldiaf.errors import LDIAFError, NonFiniteError
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.execution.stopping import Request
from tf_ldiaf.layers.gates import most_probable_graph
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.model.schedules import epochs_without_edges
from tf_ldiaf.results import checkpoints, pictures
from tf_ldiaf.results.checkpoints import Progress
from tf_ldiaf.results.run_folder import RunFolder, best_row
from tf_ldiaf.training.tensorboard import TensorBoardLog

# Checkpoints are written this often, and at the end of a phase; small models would else mostly write.
_SECONDS_BETWEEN_CHECKPOINTS = 20.0
_PICTURES_PER_PHASE = 10


class Recorder(keras.callbacks.Callback):
    """Keeps one phase of a run in its folder, and stops the phase early if asked to.

    Args:
        folder: the run's folder.
        config: its settings.
        progress: where the run stands: its rows and gate_epochs grow.
        images: what is trained and validated on.
        log: the run's TensorBoard.
        request: the run is kept and left as soon as this says so.
        learned: the graph that was learned, a `pictures.latent_graph`, for TensorBoard. None: that of the gates.
    """

    model: LDIAF
    params: typing.Any

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        progress: Progress,
        images: data.TrainingImages,
        log: TensorBoardLog,
        request: Request,
        learned: nx.DiGraph | None = None,
    ):
        super().__init__()
        self.folder, self.config, self.progress = folder, config, progress
        self.phase, self.rows, self.gate_epochs = progress.phase, progress.rows, progress.gate_epochs
        self.learned = learned
        self.images, self.log, self.request = images.valid, log, request
        self.batch_size = min(config.batch_size, len(images.train))
        self.written = time.monotonic()
        self.best_copy, self.best_is_new = None, False

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self.epoch, self.begun_at, self.began = epoch, self._steps_done(), time.monotonic()
        self.done_before = self.progress.launch if epoch == self.progress.epoch else 0
        if self.done_before:
            for variable, value in zip(self._counters(), self.progress.counters, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch, logs=None) -> None:
        if self._is_spread():
            return  # replicas would have to meet once more for each question; they are asked when the epoch ends
        self._check_steps()
        # Launches that were done before are empty; and after the last the epoch's end is at hand.
        if self.done_before <= batch < self.params["steps"] - 1 and self._is_due():
            counters = [variable.numpy().tolist() for variable in self._counters()]
            self._write_checkpoints(epoch=self.epoch, launch=batch + 1, counters=counters)
            self.request.obey()

    def on_test_begin(self, logs=None) -> None:
        self._check_steps()
        # The model's means are still those of training.
        images = (self._steps_done() - self.begun_at) * self.batch_size
        self.images_per_second = images / (time.monotonic() - self.began)
        self.train_values = self._means() | {"nonfinite_steps": float(self.model.nonfinite_steps.result())}

    def on_test_end(self, logs=None) -> None:
        # With weight averaging, the averaged weights are in the model now.
        values = self._means()
        best = best_row(self.rows, self.phase)
        if best is None or values["elbo"] > best["val_elbo"]:
            if self.best_copy is None:
                self.best_copy = LDIAF.from_config(self.model.get_config())
                self.best_copy.build((None, *self.model.image_shape))
            self.best_copy.set_weights(self.model.get_weights())
            self.best_is_new = True
        self.valid_values = values | {"active_units": float(self.model.active_units.result())}
        self.gate_probs = self.model.gates.probs().numpy().tolist()

    def on_epoch_end(self, epoch, logs=None) -> None:
        if not abs(self.train_values["elbo"] + self.valid_values["elbo"]) < float("inf"):
            self._write_best()
            raise NonFiniteError(
                f"`learning_rate` must keep the ELBO finite, which it is not after epoch {epoch + 1} of the "
                f"{self.phase} phase. Received: {self.config.learning_rate}."
            )
        valid = {name: value for name, value in self.valid_values.items() if name != "gradient_norm"}
        row = {"phase": self.phase, "epoch": epoch + 1}
        row |= self.train_values | {f"val_{name}": value for name, value in valid.items()}
        learning_rate: typing.Any = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row |= {
            "learning_rate": float(learning_rate),
            "temperature": float(self.model.temperature.numpy()),
            "kl_weight": float(self.model.kl_weight.numpy()),
            "images_per_second": self.images_per_second,
            "seconds": time.monotonic() - self.began,
        }
        self.rows.append(row)
        if self.phase == "structure":
            self.gate_epochs.append({"epoch": epoch + 1, "probs": self.gate_probs})

        last = epoch + 1 == self.params["epochs"]
        if stopped_early(self.rows, self.phase, self.config):
            self.model.stop_training = last = True
        self.folder.write_history(self.rows)
        if self.phase == "structure":
            self.folder.write_gates(self.gate_epochs)

        step = len(self.rows)
        self.log.scalars(step, row)
        if self.phase == "structure":
            self.log.gates(step, self.gate_probs)
        is_time = last or epoch % max(1, self.params["epochs"] // _PICTURES_PER_PHASE) == 0
        if is_time and distribution.is_chief(self.model.distribute_strategy):  # the others' are thrown away
            learned = self.learned or pictures.latent_graph(most_probable_graph(self.gate_probs), self.gate_probs)
            self.log.pictures(step, self.model, self.images, learned)

        if self._is_spread() and distribution.any_asks(self.model.distribute_strategy, self.request.number is not None):
            self.request.number = self.request.number or signal.SIGTERM
        # The workers of a cluster save together, and their clocks may differ.
        if last or self._is_spread() or self._is_due():
            self._write_checkpoints(epoch=epoch + 1, launch=0, counters=[])
            self.request.obey()

    def _is_spread(self):
        return self.model.distribute_strategy.num_replicas_in_sync > 1

    def _check_steps(self):
        try:
            self.model.check_steps()
        except LDIAFError:
            self._write_best()
            raise

    def _counters(self):
        """Variables of what is counted over an epoch."""
        return [*self.model.term_means.variables, *self.model.nonfinite_steps.variables]

    def _steps_done(self):
        return int(self.model.optimizer.iterations.numpy())

    def _means(self):
        return {name: float(mean) for name, mean in self.model.term_means.result().items()}

    def _is_due(self):
        return self.request.number is not None or time.monotonic() - self.written > _SECONDS_BETWEEN_CHECKPOINTS

    def _write_best(self):
        if self.best_is_new:
            checkpoints.write_best(self.best_copy, self.folder)
            self.best_is_new = False

    def _write_checkpoints(self, **position):
        self.log.flush()
        self._write_best()
        checkpoints.write(self.model, self.progress._replace(**position), self.folder)
        self.written = time.monotonic()


def stopped_early(rows: list[dict], phase: str, config: Config) -> bool:
    """Whether the last `early_stopping_patience` epochs of the phase (0: never) brought no better validation ELBO.

    Epochs in which all gates were shut do not count.
    """
    first = epochs_without_edges(config.structure_epochs) if phase == "structure" else 0
    best = best_row([row for row in rows if row["epoch"] > first or row["phase"] != phase], phase)
    patience = config.early_stopping_patience
    return bool(patience) and best is not None and rows[-1]["epoch"] - best["epoch"] >= patience
