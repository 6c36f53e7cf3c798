"""Training: each setting has the effect that its name says."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.layers import gates
from tf_ldiaf.model import schedules


@pytest.mark.parametrize("loaded", [False, True])
def test_weight_decay_is_for_kernels_only(compiled, tmp_path, loaded):
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    model = compiled("ldiaf", optimizer=optimizer, num_nodes=2, root_components=2)
    model.build((None, 3, 3))
    model.optimizer.build(model.trainable_variables)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 0.5))
    model.optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    values = {v.name: float(tf.reduce_min(v.value)) for v in model.trainable_variables}
    kept = dict.fromkeys(["scaled_logits", "bias", "component_loc", "component_raw_scale"], 0.5)
    assert values == kept | {"kernel": pytest.approx(0.475)}


def test_training_clips_as_the_settings_say(compiled, images):
    """A step of plain gradient descent moves the weights by the learning rate times the clipped norm."""
    for clip_norm, moved in [(0.25, 0.25), (0.0, None), (1e6, None)]:
        keras.utils.set_random_seed(0)
        model = compiled("fc_vae", optimizer=keras.optimizers.SGD(1.0), clip_norm=clip_norm, run_eagerly=True)
        x = images(8)
        model(x)
        before = [v.numpy() for v in model.trainable_variables]
        model.train_step(tf.constant(x))
        steps = [v.numpy() - old for v, old in zip(model.trainable_variables, before, strict=True)]
        norm = np.sqrt(sum((step**2).sum() for step in steps))
        reported = float(model.term_means.result()["gradient_norm"])
        assert reported > 0.5
        assert norm == pytest.approx(moved or reported, rel=1e-4)


def test_a_launch_is_as_many_steps(compiled, images):
    """Five batches of which three are used, in one XLA program, against three calls; also with learned gates."""
    batches = images(5 * 8).reshape(5, 8, 3, 3)
    weights = []
    for launch in (True, False):
        keras.utils.set_random_seed(0)
        model = compiled("graph_vae", optimizer=keras.optimizers.SGD(0.01), jit_compile=True)
        model.build((None, 3, 3))
        if launch:
            data = tf.data.Dataset.from_tensors((batches.astype("uint8"), 3))
        else:
            data = tf.data.Dataset.from_tensor_slices(batches[:3])
        logs = model.fit(data, verbose=0).history
        assert int(model.optimizer.iterations) == 3
        weights.append([logs["elbo"][0], *model.get_weights()])
    for together, apart in zip(*weights, strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_validation_within_fit_sees_the_averaged_weights(compiled, images):
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices(images(16)).batch(8, drop_remainder=True)
    model = compiled("vae", ema_decay=0.5, learning_rate=0.1, run_eagerly=True)
    raw = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: raw.append(model.get_weights()))
    history = model.fit(data, epochs=2, validation_data=data, callbacks=[record], verbose=0).history
    averaged = model.evaluate(data, return_dict=True, verbose=0)
    assert history["val_elbo"][-1] == pytest.approx(averaged["elbo"], abs=1e-5)
    average = raw[0]
    for weights in raw[1:]:
        average = [0.5 * old + 0.5 * new for old, new in zip(average, weights, strict=True)]
    model.set_weights(average)
    assert model.evaluate(data, return_dict=True, verbose=0)["elbo"] == pytest.approx(averaged["elbo"], abs=1e-3)
    model.set_weights(raw[-1])
    assert abs(model.evaluate(data, return_dict=True, verbose=0)["elbo"] - averaged["elbo"]) > 0.01


def test_temperature_falls_by_equal_factors_once_gates_are_no_longer_shut():
    assert [schedules.temperature(epoch, 6, 0.25) for epoch in range(7)] == [1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.25]
    assert [schedules.temperature(epoch, 5, 0.25) for epoch in range(5)] == [1.0, 1.0, 1.0, 0.5, 0.25]
    assert schedules.temperature(0, 1, 0.25) == 1
    assert [schedules.epochs_without_edges(epochs) for epochs in (0, 1, 2, 5)] == [0, 0, 1, 2]


def test_gates_are_shut_in_the_first_half_of_a_structure_phase(compiled, images):
    """And learn nothing in it: their probabilities are the initial ones when they open."""
    model = compiled("graph_vae", structure_epochs=4, initial_gate_prob=0.7, run_eagerly=True)
    seen = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.gates.probs().numpy()))
    model.fit(images(8), batch_size=4, epochs=2, callbacks=[record], verbose=0)
    assert model.edges == []
    model.fit(images(8), batch_size=4, epochs=1, callbacks=[record], verbose=0)
    assert np.max(seen[:2]) == 0
    upper = np.triu_indices(3, 1)
    np.testing.assert_allclose(seen[2][upper], 0.7, atol=0.1)
    assert (seen[2][upper] != 0.7).all()
    model.gates.shut(True)
    np.testing.assert_array_equal(model.gates.sample((1, 3), 1.0, [0, 0]), np.zeros((1, 3, 3, 3)))


def test_kl_weight_rises_linearly_to_one():
    weights = [schedules.kl_weight(epoch, 3) for epoch in range(6)]
    np.testing.assert_allclose(weights, [0.25, 0.5, 0.75, 1, 1, 1])
    assert schedules.kl_weight(0, 0) == 1


def test_fit_follows_the_epoch(compiled, images):
    """Also when it starts later: the values are functions of the epoch, not of what came before."""
    settings = {"structure_epochs": 4, "final_temperature": 0.25, "kl_warmup_epochs": 3}
    model = compiled("graph_vae", run_eagerly=True, **settings)
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append((float(model.temperature), float(model.kl_weight)))
    )
    data = tf.data.Dataset.from_tensor_slices(images(4)).batch(4, drop_remainder=True)
    model.fit(data, initial_epoch=1, epochs=4, callbacks=[record], verbose=0)
    assert seen == [(1.0, 0.5), (1.0, 0.75), (0.25, 1.0)]


def test_kl_weight_enters_the_loss_and_not_the_reported_elbo(compiled, images):
    """With weight 0 the optimum ignores the prior: its network gets no gradient, and the ELBO still counts the KL."""
    model = compiled("fc_vae", run_eagerly=True)
    x = images(8)
    model(x)
    model.kl_weight.assign(0.0)
    before = [v.numpy() for v in model.trainable_variables]
    model.train_step(tf.constant(x))
    metrics = {name: float(mean) for name, mean in model.term_means.result().items()}
    assert metrics["elbo"] == pytest.approx(metrics["reconstruction"] - metrics["kl"], abs=1e-4)
    assert metrics["kl"] == pytest.approx(sum(metrics[f"kl_node_{n}"] for n in (1, 2, 3)), abs=1e-4)
    assert metrics["kl"] != 0
    assert metrics["gradient_norm"] > 0
    seed = tf.random.fold_in([0, 0], 0)
    with tf.GradientTape() as tape:
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
        loss = -tf.reduce_mean(model(x, seed=seed, training=True).log_likelihood)
    expected = tape.gradient(loss, [v.value for v in model.trainable_variables], unconnected_gradients="zero")
    assert metrics["gradient_norm"] == pytest.approx(float(tf.linalg.global_norm(expected)), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.75])
def test_an_open_gate_costs_its_price_less_while_the_temperature_is_high(compiled, images, temperature):
    """A price so high that it is all of the gradient: by each of three logits it is cost (1 - tau) p (1 - p)."""
    settings = {"edge_cost": 1e6, "initial_gate_prob": 0.2, "structure_epochs": 5}
    model = compiled("graph_vae", run_eagerly=True, **settings)
    model(images(8))
    model.temperature.assign(temperature)
    model.train_step(tf.constant(images(8)))
    norm = float(model.term_means.result()["gradient_norm"])
    if temperature == 1:
        assert norm < 1e3
    else:
        assert norm == pytest.approx(gates._RATE * 1e6 * 0.25 * 0.2 * 0.8 * np.sqrt(3), rel=1e-3)
        assert (model.gates.probs().numpy()[np.triu_indices(3, 1)] < 0.2).all()
