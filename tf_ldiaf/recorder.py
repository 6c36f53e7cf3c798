"""What is kept of every epoch: history, gates, checkpoints, TensorBoard."""

import os
import time

import keras

from tf_ldiaf import data
from tf_ldiaf.config import ConfigError
from tf_ldiaf.run_folder import RunFolder

# Checkpoints are written this often, and at the end of a phase; small models would else mostly write.
_SECONDS_BETWEEN_CHECKPOINTS = 20.0
_PICTURES_PER_PHASE = 10


class Recorder(keras.callbacks.Callback):
    """Keeps one phase of a run in its folder, and stops the phase early if asked to.

    Args:
        folder: the run's folder.
        phase: "structure" or "final".
        rows: rows of the history so far, of this phase and those before; grows.
        gate_epochs: list of {epoch, probs}; grows while the gates are learned.
        images: the run's `Images`.
        log: the run's TensorBoard.
    """

    def __init__(self, folder: RunFolder, phase: str, rows: list, gate_epochs: list, images: data.Images, log):
        super().__init__()
        self.folder, self.phase, self.rows, self.gate_epochs = folder, phase, rows, gate_epochs
        self.images, self.log = images.valid, log
        self.num_train = len(images.train)
        self.written = time.monotonic()
        self.best_copy, self.best_is_new = None, False

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_test_begin(self, logs=None):
        # The model's means are still those of training.
        self.train_seconds = time.monotonic() - self.began
        self.train_values = self._means()

    def on_test_end(self, logs=None):
        # With weight averaging, the averaged weights are in the model now.
        values = self._means()
        best = best_row(self.rows, self.phase)
        if best is None or values["elbo"] > best["val_elbo"]:
            if self.best_copy is None:
                self.best_copy = type(self.model).from_config(self.model.get_config())
                self.best_copy.build((None, *self.model.image_shape))
            self.best_copy.set_weights(self.model.get_weights())
            self.best_is_new = True
        self.valid_values = values | {"active_units": float(self.model.active_units.result())}
        self.gate_probs = self.model.gates.probs().numpy().tolist()

    def on_epoch_end(self, epoch, logs=None):
        if not abs(self.train_values["elbo"] + self.valid_values["elbo"]) < float("inf"):
            raise ConfigError(
                f"--learning_rate must keep the ELBO finite, which it is not after epoch {epoch + 1} of the "
                f"{self.phase} phase. Received: {self.model.config.learning_rate}."
            )
        valid = {name: value for name, value in self.valid_values.items() if name != "gradient_norm"}
        batch_size = min(self.model.config.batch_size, self.num_train)
        row = {"phase": self.phase, "epoch": epoch + 1}
        row |= self.train_values | {f"val_{name}": value for name, value in valid.items()}
        row |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "temperature": float(self.model.temperature),
            "kl_weight": float(self.model.kl_weight),
            "images_per_second": self.num_train // batch_size * batch_size / self.train_seconds,
        }
        self.rows.append(row)
        if self.phase == "structure":
            self.gate_epochs.append({"epoch": epoch + 1, "probs": self.gate_probs})

        config, last = self.model.config, epoch + 1 == self.params["epochs"]
        if stopped_early(self.rows, self.phase, config.early_stopping_patience):
            self.model.stop_training = last = True
        self.folder.write_history(self.rows)
        adjacency = None if self.model.gates.fixed is None else self.gate_probs
        self.folder.write_gates(self.gate_epochs, adjacency)
        if last or time.monotonic() - self.written > _SECONDS_BETWEEN_CHECKPOINTS:
            self._write_checkpoints()

        step = len(self.rows)
        self.log.scalars(step, row)
        if self.phase == "structure":
            self.log.gates(step, self.gate_probs)
        if last or epoch % max(1, self.params["epochs"] // _PICTURES_PER_PHASE) == 0:
            learned = self.gate_epochs[-1]["probs"] if self.gate_epochs else self.gate_probs
            self.log.pictures(step, self.model, self.images, learned)

    def _means(self):
        return {name: float(mean) for name, mean in self.model.term_means.result().items()}

    def _write_checkpoints(self):
        if self.best_is_new:
            save_atomically(self.best_copy, self.folder.best)
            self.best_is_new = False
        save_atomically(self.model, self.folder.last)
        self.written = time.monotonic()


def best_row(rows, phase):
    """The row of the best validation ELBO in a phase; None before its first epoch."""
    return max((row for row in rows if row["phase"] == phase), key=lambda row: row["val_elbo"], default=None)


def stopped_early(rows, phase, patience):
    """Whether the last `patience` epochs of the phase (0: never) brought no better validation ELBO."""
    best = best_row(rows, phase)
    return bool(patience) and best is not None and rows[-1]["epoch"] - best["epoch"] >= patience


def save_atomically(model, path):
    """A Keras archive that is complete or not there."""
    scratch = path.with_name("part-" + path.name)
    try:
        model.save(scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise ConfigError(f"{path.parent} must be a folder that can be written. Received: {error}.") from None
