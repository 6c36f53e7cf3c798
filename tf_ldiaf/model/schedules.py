"""What changes from epoch to epoch: the gates' temperature, the weight of the KL term."""

import typing

import keras


def temperature(epoch: int, structure_epochs: int, final_temperature: float) -> float:
    """tau of the relaxed gates in `epoch` (from 0): from 1 geometrically to final_temperature in the phase's last."""
    return final_temperature ** min(1.0, epoch / max(1, structure_epochs - 1))


def kl_weight(epoch: int, kl_warmup_epochs: int) -> float:
    """Weight of the KL term in `epoch` (from 0): rises linearly, and is 1 from epoch `kl_warmup_epochs` on."""
    return min(1.0, (epoch + 1) / (kl_warmup_epochs + 1))


class EpochSchedules(keras.callbacks.Callback):
    """Sets the model's KL weight, and the temperature of gates that are learned, at the start of every epoch."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        model: typing.Any = self.model
        objective = model.objective
        if model.gates.fixed is None:
            model.temperature.assign(temperature(epoch, objective.structure_epochs, objective.final_temperature))
        model.kl_weight.assign(kl_weight(epoch, objective.kl_warmup_epochs))
