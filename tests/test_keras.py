"""The model as anyone's Keras model: trained, evaluated, saved and loaded, compiled or not."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf import LDIAF
from tf_ldiaf.layers.gates import all_gates_open


@pytest.fixture(scope="module")
def trained(compiled, images):
    """A model with every part after one epoch, and its batches, of which the last is smaller."""
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices(images(12)).batch(8)
    model = compiled(num_nodes=2, structure_epochs=3, final_temperature=0.5, run_eagerly=True)
    model.fit(data, initial_epoch=2, epochs=3, verbose=0)
    return model, data


def test_five_lines_of_plain_keras(images):
    """Two images learned by heart: from 9 fair coins, 6.2 nats, to log 2, as if by anyone's Keras model."""
    keras.utils.set_random_seed(0)
    data = tf.data.Dataset.from_tensor_slices(np.tile(images(2), (16, 1, 1))).batch(32).repeat(100)
    model = LDIAF(num_nodes=1, node_dim=2, num_flow_steps=0, encoder_units=[8], decoder_units=[8])
    model.compile(keras.optimizers.Adam(0.03), kl_warmup_epochs=0)
    before = model.evaluate(data.take(20), return_dict=True, verbose=0)
    model.fit(data, epochs=2, verbose=0)
    after = model.evaluate(data.take(20), return_dict=True, verbose=0)
    assert {"elbo", "reconstruction", "kl"} <= set(after)
    assert after["elbo"] == pytest.approx(after["reconstruction"] - after["kl"], abs=1e-4)
    assert before["elbo"] < -5
    assert -1.5 < after["elbo"] < -np.log(2)


def test_evaluation_reports_the_mean_over_images_and_repeats_itself(trained):
    model, data = trained
    found = model.evaluate(data, return_dict=True, verbose=0)
    assert found == model.evaluate(data, return_dict=True, verbose=0)
    draws = [model.bounds(x, 500)["elbo"] for x in data]
    expected = np.concatenate(draws).mean()
    spread = np.concatenate([model(x, num_samples=500).elbo() for x in data], axis=1).std()
    # One draw for each of 12 images, 5 standard errors: error rate 6e-7.
    assert abs(found["elbo"] - expected) < 5 * spread / np.sqrt(12)


def test_padding_of_weight_zero_leaves_evaluation_unchanged(trained, images):
    """What fills the padding does not matter; a weight that does count, does."""
    model, _ = trained
    x, weight = images(8), np.array([1, 1, 1, 1, 1, 0, 0, 0], "float32")

    def evaluate(x, weight):
        data = tf.data.Dataset.from_tensors((x, x, weight))
        return model.evaluate(data, return_dict=True, verbose=0)

    other = np.concatenate([x[:5], 1 - x[5:]])
    assert evaluate(x, weight) == evaluate(other, weight)
    assert evaluate(x, np.ones(8, "float32")) != evaluate(other, np.ones(8, "float32"))
    terms = model(x, seed=[0, 1])
    assert evaluate(x, weight)["elbo"] == pytest.approx(np.mean(terms.elbo()[0, :5]), abs=1e-4)


def test_saved_model_is_the_model_with_its_optimizer(trained, images, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())  # without what is a list or a tuple
    assert copy.objective == model.objective
    assert copy.get_compile_config() == model.get_compile_config()
    for term, again in zip(model(images(4), seed=(1, 2)), copy(images(4), seed=(1, 2)), strict=True):
        np.testing.assert_array_equal(term, again)
    assert int(copy.optimizer.iterations) == int(model.optimizer.iterations) > 0
    assert len(copy.optimizer.variables) == len(model.optimizer.variables) > len(model.trainable_variables)
    for variable, again in zip(model.optimizer.variables, copy.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, again)
    assert float(copy.temperature) == float(model.temperature) == 0.5


def test_saved_model_keeps_its_fixed_gates(tiny, images, tmp_path):
    model = LDIAF.from_settings(tiny("graph_vae"), edges=[(3, 1), (3, 2)])
    model(images(3))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.edges == [(3, 1), (3, 2)]
    assert copy.gates.fixed is not None
    np.testing.assert_array_equal(copy.encode(images(3)), model.encode(images(3)))


def test_xla_computes_the_same(trained, images):
    """XLA draws other numbers from the same seed: what is not drawn agrees exactly, and the ELBO in its mean."""
    model, _ = trained
    x = tf.constant(images(8))
    codes, elbos = [], []
    for jit_compile in (True, False):
        compiled = tf.function(jit_compile=jit_compile)(lambda x: (model.encode(x), model(x, num_samples=500).elbo()))
        code, elbo = compiled(x)
        codes.append(code)
        elbos.append(elbo.numpy().astype("float64"))
    np.testing.assert_allclose(codes[0], codes[1], atol=1e-5)
    error = np.sqrt(sum(elbo.var(axis=0) for elbo in elbos) / 500)
    # 8 images, 5 standard errors: error rate 5e-6.
    assert (np.abs(elbos[0].mean(axis=0) - elbos[1].mean(axis=0)) < 5 * error).all()


def test_steps_draw_anew(compiled, images):
    """The same batch twice, at a learning rate of nearly zero: only the draws of z can change the ELBO."""
    model = compiled("vae", learning_rate=1e-30, run_eagerly=True)
    elbos = []
    for _ in range(2):
        elbos.append(model.train_on_batch(images(8), return_dict=True)["elbo"])
        model.reset_metrics()
    assert abs(elbos[0] - elbos[1]) > 1e-3


@pytest.mark.parametrize(
    ("launched", "jit_compile"), [(False, False), (True, False), pytest.param(True, True, marks=pytest.mark.long)]
)
def test_a_skipped_step_leaves_no_trace_but_its_count(compiled, images, launched, jit_compile, monkeypatch):
    """A batch whose code is not a number between two others changes no weight, no moment and no mean."""
    first, bad, last = np.split(images(24), 3)
    bad[3] = 0
    found, encoded = [], LDIAF.encoded

    def failing(model, x, training=False):  # where there is no ink
        return tf.where(tf.reduce_any(x > 0, [1, 2])[:, tf.newaxis], encoded(model, x), np.nan)

    monkeypatch.setattr(LDIAF, "encoded", failing)
    for batches in ([first, last], [first, bad, last]):
        keras.utils.set_random_seed(0)
        settings = {"on_nonfinite": "skip", "jit_compile": jit_compile, "ema_decay": 0.9}
        model = compiled("ldiaf", all_gates_open(3), **settings)
        model.build((None, 3, 3))
        data = tf.data.Dataset.from_tensors((np.stack(batches), len(batches))) if launched else np.concatenate(batches)
        model.fit(data, batch_size=8, shuffle=False, verbose=0)
        found.append(model)
    clean, skipped = found
    for ours, theirs in zip(skipped.variables, clean.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(skipped.optimizer.variables, clean.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(skipped.term_means.variables, clean.term_means.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(clean.nonfinite_steps.result()) == 0
    assert float(skipped.nonfinite_steps.result()) == 1
    assert clean.nonfinite_steps.first_terms() is None
    step, terms = skipped.nonfinite_steps.first_terms()
    assert step == 2
    assert {"elbo", "reconstruction", "gradient_norm"} <= set(terms)
