"""The optimizer that the settings ask for."""

import typing

import keras

from tf_ldiaf.config import TrainingSettings

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "adamax": keras.optimizers.Adamax}


def make_optimizer(settings: TrainingSettings, num_steps: int, restart: int = 0) -> keras.optimizers.Optimizer:
    """A Keras optimizer with weight decay and weight averaging as the settings say.

    Args:
        settings: of the training.
        num_steps: steps of the whole phase, over which a cosine schedule falls.
        restart: the step in which it has fallen for the first time, and begins anew; 0: it falls once.
    """
    rate: typing.Any = settings.learning_rate
    if settings.learning_rate_schedule == "cosine" and restart:
        rate = keras.optimizers.schedules.CosineDecayRestarts(rate, restart, t_mul=(num_steps - restart) / restart)
    elif settings.learning_rate_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps)
    return _OPTIMIZERS[settings.optimizer](
        learning_rate=rate,
        weight_decay=settings.weight_decay if settings.optimizer == "adamw" else None,
        use_ema=settings.ema_decay > 0,
        ema_momentum=settings.ema_decay,
    )
