"""What one sees of a training: a line for each epoch, and the time that is left."""

import sys
import time
import typing

import keras
import rich.progress

from tf_ldiaf.results.pictures import DEAD
from tf_ldiaf.results.report import clock

# In a file or a log, lines are at least this many seconds apart.
_SECONDS_BETWEEN_LINES = 5.0
_COLUMNS = ("phase", "epoch", "train", "valid", "KL", "live", "images/s", "elapsed", "left")
_LINE = "{:<9} {:>8} {:>9} {:>9} {:>7} {:>5} {:>8} {:>8} {:>8}"


class ProgressLines(keras.callbacks.Callback):
    """Prints a line for each epoch of a phase.

    A line has the ELBO of training and validation images and the validation images' KL term, in nats; how many nodes
    are live; images a second; the time since the command began, and about how long the whole training still takes.
    On a terminal `bar`, which is to be entered around `fit`, shows the epoch that is under way. Elsewhere lines are
    not printed more often than every five seconds.

    Args:
        phase: "structure" or "final".
        rows: the run's history. It has an epoch's row before this is told of the epoch's end.
        began: when the command began, `time.monotonic()`.
        epochs_after: epochs that come after this phase, or take as long as what does.
    """

    model: typing.Any
    params: typing.Any

    def __init__(self, phase: str, rows: list[dict], began: float, epochs_after: float = 0.0):
        super().__init__()
        self.phase, self.rows, self.began, self.epochs_after = phase, rows, began, epochs_after
        self.printed: float | None = None
        self.launch_ended: float | None = None  # the first one
        self.epoch_ended: float | None = None  # the first one
        self.epochs_since = 0
        self.epoch_seconds: float | None = None
        self.left = "-"
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[left]} left"),
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
            disable=not sys.stdout.isatty(),
        )

    def on_train_begin(self, logs=None) -> None:
        if not self.bar.disable:
            self.bar.console.show_cursor(True)  # a process that is killed could not bring it back
        print(_LINE.format(*_COLUMNS), flush=True)
        self.task = self.bar.add_task(self.phase, total=self.params["steps"], left=self.left)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        description = f"{self.phase} {epoch + 1}/{self.params['epochs']}"
        self.bar.update(self.task, completed=0, description=description, left=self.left)

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.launch_ended = self.launch_ended or time.monotonic()
        self.bar.update(self.task, completed=batch + 1)

    def on_test_begin(self, logs=None) -> None:
        steps = self.params["steps"]
        # In the first epoch, the first launch and the validation compile. They say nothing of the epochs to come.
        if self.epoch_ended is None and self.launch_ended is not None and steps > 1:
            self.epoch_seconds = (time.monotonic() - self.launch_ended) / (steps - 1) * steps

    def on_epoch_end(self, epoch, logs=None) -> None:
        now, is_last = time.monotonic(), self.model.stop_training or epoch + 1 == self.params["epochs"]
        if self.epoch_ended is None:
            self.epoch_ended = now
        else:
            self.epochs_since += 1
            self.epoch_seconds = (now - self.epoch_ended) / self.epochs_since
        epochs_left = self.epochs_after + (0 if is_last else self.params["epochs"] - epoch - 1)
        if self.epoch_seconds is not None:
            self.left = clock(self.epoch_seconds * epochs_left)
        is_due = self.printed is None or is_last or now - self.printed > _SECONDS_BETWEEN_LINES
        if is_due or not self.bar.disable:
            self.printed = now
            print(self._line(epoch, clock(now - self.began)), flush=True)

    def _line(self, epoch, elapsed):
        row = self.rows[-1]
        kl = [value for name, value in row.items() if name.startswith("val_kl_node_")]
        return _LINE.format(
            self.phase,
            f"{epoch + 1}/{self.params['epochs']}",
            *(f"{row[name]:.2f}" for name in ("elbo", "val_elbo", "val_kl")),
            f"{sum(value >= DEAD for value in kl)}/{len(kl)}",
            f"{row['images_per_second']:,.0f}",
            elapsed,
            self.left,
        )
