"""What changes while training: the optimizer's learning rate, the gates' temperature, the weight of the KL term."""

import keras
import tensorflow as tf

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "adamax": keras.optimizers.Adamax}


def make_optimizer(config, num_steps=None):
    """The optimizer of `config`.

    Args:
        config: a `Config`.
        num_steps: steps of the whole phase, which a cosine schedule needs; without it the rate is constant.

    Returns:
        A Keras optimizer with weight decay and weight averaging as the settings say.
    """
    rate = config.learning_rate
    if config.learning_rate_schedule == "cosine" and num_steps:
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps)
    return _OPTIMIZERS[config.optimizer](
        learning_rate=rate,
        weight_decay=config.weight_decay if config.optimizer == "adamw" else None,
        use_ema=config.ema_decay > 0,
        ema_momentum=config.ema_decay,
    )


def clip(gradients, clip_norm):
    """Gradients scaled down to a global norm of at most `clip_norm` (0: as they are), and their norm before."""
    # Sums of squares by a product with ones: XLA on a CPU takes eight times as long for a full reduction.
    squares = [tf.linalg.matvec(tf.reshape(g, [-1, g.shape[-1]]) ** 2, tf.ones(g.shape[-1:])) for g in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(rows) for rows in squares]))
    if clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, norm)
    return gradients, norm


def temperature(config, epoch):
    """tau of the relaxed gates in `epoch` (from 0): from 1 geometrically to final_temperature in the phase's last."""
    return config.final_temperature ** min(1.0, epoch / max(1, config.structure_epochs - 1))


def kl_weight(config, epoch):
    """Weight of the KL term in `epoch` (from 0): rises linearly, and is 1 from epoch `kl_warmup_epochs` on."""
    return min(1.0, (epoch + 1) / (config.kl_warmup_epochs + 1))


class EpochSchedules(keras.callbacks.Callback):
    """Sets the model's KL weight, and the temperature of gates that are learned, at the start of every epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if self.model.gates.fixed is None:
            self.model.temperature.assign(temperature(self.model.config, epoch))
        self.model.kl_weight.assign(kl_weight(self.model.config, epoch))
