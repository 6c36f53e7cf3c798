"""What happens in every `fit`: schedules, and a watch on what goes wrong."""

import typing
import warnings

import keras

from tf_ldiaf.model.schedules import epochs_without_edges, kl_weight, temperature

_ROUNDING = 1e-6  # more than a float32 variable rounds a weight in 0-1


class EpochSchedules(keras.callbacks.Callback):
    """Counts epochs. At each one's start it sets the KL weight; and of gates that are learned, the temperature, and
    whether they are shut."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        model: typing.Any = self.model
        objective, done = model.objective, int(model.epochs_done.numpy())
        epoch = max(epoch, done)
        is_shut = epoch < epochs_without_edges(objective.structure_epochs)
        weight = kl_weight(epoch, objective.kl_warmup_epochs)
        changes = []
        before = model.kl_weight_of_schedule
        if not before:  # The model was loaded. If its weight is above 1, a callback has set it.
            before = float(model.kl_weight.numpy())
            before = before if before <= 1.0 else 0.0
        if done and weight < before - _ROUNDING:
            changes.append(f"the weight of the KL term falls from {before:.2f} to {weight:.2f}")
        if done and model.gates.fixed is None and is_shut and model.gates.open.numpy().any():
            changes.append("gates that were open are shut")
        if changes:
            warnings.warn(
                f"After {done} epochs {' and '.join(changes)}, because `structure_epochs` or `kl_warmup_epochs` of "
                "`compile` are others than before.",
                stacklevel=2,
            )
        model.kl_weight_of_schedule = weight
        model.epochs_done.assign(epoch)
        if model.gates.fixed is None:
            model.gates.shut(is_shut)
            model.temperature.assign(temperature(epoch, objective.structure_epochs, objective.final_temperature))
        model.kl_weight.assign(weight)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        model: typing.Any = self.model
        model.check_steps(is_whole=True)  # before another callback keeps the epoch as a good one
        model.epochs_done.assign_add(1)


class AtEpochEnd(keras.callbacks.Callback):
    """Does something when an epoch ends, after the callbacks before it and before those behind it."""

    def __init__(self, does: typing.Callable[[], None]):
        super().__init__()
        self.does = does

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.does()


class Watch(keras.callbacks.Callback):
    """Ends `fit` if a step went wrong: seen after steps 1, 2, 4, 8 ... of an epoch and before its validation.

    To look costs a moment in which the next step does not begin, so it does not look after every step.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._is_alone() and not batch & (batch + 1):
            typing.cast(typing.Any, self.model).check_steps()

    def on_test_begin(self, logs: dict | None = None) -> None:
        model: typing.Any = self.model
        model.check_steps(is_whole=True)  # what was counted is forgotten next

    def _is_alone(self):
        model: typing.Any = self.model
        return model.distribute_strategy.num_replicas_in_sync == 1  # else all would have to meet


def with_averaging(
    callbacks: list[keras.callbacks.Callback], averages: bool
) -> tuple[list[keras.callbacks.Callback], keras.callbacks.SwapEMAWeights | None]:
    """Adds what every `fit` needs to the callbacks of a user.

    What is validated are averaged weights. So these are kept by whatever keeps the best weights.

    Args:
        callbacks: of the user.
        averages: whether the optimizer averages weights.

    Returns:
        all callbacks, and the one of them that swaps the averaged weights in; None if it is the user's, or not needed.
    """
    if not averages or any(isinstance(each, keras.callbacks.SwapEMAWeights) for each in callbacks):
        return [*callbacks, Watch()], None
    averaging = keras.callbacks.SwapEMAWeights()
    best = [each for each in callbacks if _keeps_best(each)]
    others = [each for each in callbacks if not _keeps_best(each)]
    best = [AtEpochEnd(averaging.on_test_begin), *best, AtEpochEnd(averaging.on_test_end)] if best else []
    # Averaging comes last, so that in `on_test_end` the other callbacks still see the averaged weights.
    # Those that keep the best come first: weights that are swapped twice are rounded, and a backup must have these.
    return [*best, *others, Watch(), averaging], averaging


def _keeps_best(callback):
    """Whether a callback of Keras keeps the weights of the epoch whose validation was best."""
    return isinstance(callback, keras.callbacks.EarlyStopping) or getattr(callback, "save_best_only", False)
