"""What users of Keras expect of any model: `fit`, `evaluate` and `predict` on what people have, and nothing silent."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_cli import environment

from tf_ldiaf import LDIAF
from tf_ldiaf.errors import DataError, NonFiniteError

X = np.random.default_rng(0).integers(0, 2, (40, 4, 4)).astype("float32")
GREY = np.random.default_rng(1).integers(0, 256, (40, 4, 4)).astype("uint8")


def make(optimizer="adam", channels=(), **compiled):
    """A small model, the same at every call; a convolutional one has an edge and flows, too."""
    keras.utils.set_random_seed(0)
    small = {"encoder_units": [8], "decoder_units": [8], "node_units": [8], "flow_units": [8], "context_dim": 2}
    graph = {"num_nodes": 2, "edges": [(2, 1)], "num_flow_steps": 1} if channels else {"num_nodes": 1}
    model = LDIAF(node_dim=2, channels=channels, **{"edges": [], "num_flow_steps": 0} | graph, **small)
    model.compile(optimizer, **{"jit_compile": False, "kl_warmup_epochs": 0} | compiled)
    model.build((None, 4, 4))
    return model


def batches(x, *labels):
    return tf.data.Dataset.from_tensor_slices((x, *labels) if labels else x).batch(8)


def forever(x):
    while True:
        yield x[:8], np.zeros(8)


def assert_equal(model, other):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def fitted():
    """A model after an epoch of X; no test changes it."""
    model = make()
    model.fit(X, batch_size=8, verbose=0)
    return model


def test_history_has_the_loss_of_training_and_validation():
    history = make().fit(X, epochs=2, batch_size=8, validation_split=0.25, verbose=0).history
    for prefix in ("", "val_"):
        np.testing.assert_allclose(history[f"{prefix}loss"], -np.array(history[f"{prefix}elbo"]))
        assert len(history[f"{prefix}kl"]) == 2


@pytest.mark.parametrize("give", [lambda x: x, batches, lambda x: batches(x, np.zeros(40))])
def test_a_step_is_traced_once_although_the_weights_are_not_made_yet(give, monkeypatch):
    model, traced, step = LDIAF.from_config(make().get_config()), [], LDIAF.train_step
    monkeypatch.setattr(LDIAF, "train_step", lambda self, *given: traced.append(1) or step(self, *given))
    model.compile(jit_compile=False)
    model.fit(give(X), batch_size=8 if give(X) is X else None, verbose=0)
    assert len(traced) == 1


def test_evaluate_gives_its_numbers_in_the_order_of_their_names():
    model = make()
    found = dict(zip(model.metrics_names, model.evaluate(X, verbose=0), strict=True))
    assert found == model.evaluate(X, verbose=0, return_dict=True)
    assert found["loss"] == -found["elbo"]
    assert found["elbo"] == pytest.approx(found["reconstruction"] - found["kl"], abs=1e-4)


def test_prediction_is_the_code_of_each_image():
    model = make()
    codes = model.predict(X, batch_size=7, verbose=0)
    np.testing.assert_allclose(codes, model.encode(X), atol=1e-5)
    np.testing.assert_allclose(model.predict(batches(X), verbose=0), codes, atol=1e-5)


@pytest.mark.parametrize(
    "give",
    [
        lambda x: (x, np.arange(40)),
        lambda x: ({"image": x, "label": np.arange(40)},),
        lambda x: (tf.constant(x),),
        lambda x: (x.astype(bool),),
        lambda x: (x.astype("int64"),),
    ],
)
def test_labels_and_types_of_numbers_change_nothing(give, fitted):
    model = make()
    model.fit(*give(X), batch_size=8, verbose=0)
    assert_equal(model, fitted)


def test_batches_with_labels_and_batches_with_names_are_taken():
    ours, theirs, third = make(), make(), make()
    ours.fit(batches(X, np.arange(40)), verbose=0)
    theirs.fit(tf.data.Dataset.from_tensor_slices({"image": X, "label": np.arange(40)}).batch(8), verbose=0)
    third.fit((batch for batch in batches(X, np.arange(40)).as_numpy_iterator()), verbose=0)
    assert_equal(ours, theirs)
    assert_equal(ours, third)
    with pytest.raises(DataError, match=r"`x` must be images.*parts \['pixels'\]"):
        ours.fit({"pixels": X}, verbose=0)


def other(pixel):
    x = X.copy()
    x[3, 2, 1] = pixel
    return x


@pytest.fixture(scope="module")
def model():
    """One that no test changes."""
    return make()


@pytest.mark.parametrize("pixel", [255, 0.5, -1, np.nan, np.inf])
@pytest.mark.parametrize("source", [lambda x: x, batches, lambda x: {"image": x}, forever])
def test_pixels_that_a_model_cannot_have_are_refused_and_teach_it_nothing(pixel, source, model):
    before = [variable.numpy() for variable in model.trainable_variables]
    steps = {"steps_per_epoch": 2} if source is forever else {}
    with pytest.raises(DataError, match="`x` must have pixels that are 0 or 1"):
        model.fit(source(other(pixel)), verbose=0, **steps)
    if source is not forever:
        for use in (model.evaluate, model.predict):
            with pytest.raises(DataError, match="`x` must have pixels that are 0 or 1"):
                use(source(other(pixel)), verbose=0)
    for ours, theirs in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pixels_for_validation_are_looked_at():
    model = make()
    for source in (lambda x: x, batches):
        with pytest.raises(DataError, match="`x` must have pixels that are 0 or 1"):
            model.fit(X, validation_data=source(other(2)), verbose=0)


@pytest.mark.parametrize("use", ["encode", "posterior", "reconstruct", "log_likelihood", "__call__"])
def test_pixels_are_looked_at_wherever_images_come_in(use, model):
    with pytest.raises(DataError, match="0 or 1"):
        getattr(model, use)(GREY)


def test_pixels_are_looked_at_in_a_graph(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 or 1"):
        tf.function(model.encode)(GREY)


def test_batches_on_their_own_are_looked_at_and_their_numbers_named():
    model = make()
    for use in (model.train_on_batch, model.test_on_batch, model.predict_on_batch):
        for x in (GREY, other(np.nan)):
            with pytest.raises(DataError, match="0 or 1"):
                use(x)
    named = dict(zip(model.metrics_names, model.test_on_batch(X), strict=True))
    assert named["loss"] == -named["elbo"]
    loss, elbo, *_ = model.train_on_batch(X)
    assert loss == -elbo
    np.testing.assert_allclose(model.predict_on_batch(X), model.encode(X), atol=1e-5)


def test_a_bad_epoch_is_not_kept_as_a_good_one(tmp_path):
    model = make(keras.optimizers.SGD(1e30))
    kept = keras.callbacks.ModelCheckpoint(tmp_path / "epoch_{epoch}.keras")
    predicted = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: model.predict(X, verbose=0))
    with pytest.raises(NonFiniteError):
        model.fit(X, epochs=3, batch_size=13, verbose=0, callbacks=[predicted, kept])
    assert not list(tmp_path.iterdir())


def test_grey_images_are_for_a_dynamic_binarization():
    model = make(binarization="dynamic")
    assert np.isfinite(model.fit(GREY, verbose=0).history["loss"])
    assert np.isfinite(model.fit(batches(GREY / 255), verbose=0).history["loss"])
    for x in (GREY.astype("float32"), batches(GREY.astype("float32")), GREY / 255 - 0.1, other(np.nan)):
        with pytest.raises(DataError, match="grey, uint8 in 0-255 or float in 0-1"):
            model.fit(x, verbose=0)
    with pytest.raises(DataError, match="0 or 1"):
        model.fit(GREY, validation_data=GREY, verbose=0)


def test_schedules_go_on_where_the_last_fit_ended():
    once, often = make(kl_warmup_epochs=3), make(kl_warmup_epochs=3)
    once.fit(X, epochs=5, batch_size=8, verbose=0)
    weights = []
    for _ in range(5):
        often.fit(X, epochs=1, batch_size=8, verbose=0)
        weights.append(float(often.kl_weight.numpy()))
    assert weights == [0.25, 0.5, 0.75, 1, 1]
    assert_equal(often, once)


class Broken(keras.callbacks.Callback):
    """Ends a training as Ctrl-C would."""

    def __init__(self, **when):
        super().__init__()
        for name, number in when.items():
            setattr(self, name, lambda batch, logs=None, number=number: self.end(batch, number))

    def end(self, batch, number):
        if batch == number:
            raise KeyboardInterrupt


@pytest.mark.parametrize("ema", [False, True])
def test_a_broken_training_is_resumed_to_the_bit_by_keras_s_own_callback(ema, tmp_path):
    def trained(*callbacks):
        model = make(keras.optimizers.Adam(0.01, use_ema=ema), binarization="dynamic", kl_warmup_epochs=3)
        model.fit(GREY, epochs=4, batch_size=8, verbose=0, callbacks=list(callbacks))
        return model

    with pytest.raises(KeyboardInterrupt):
        trained(keras.callbacks.BackupAndRestore(tmp_path / "backup"), Broken(on_epoch_begin=2))
    assert_equal(trained(keras.callbacks.BackupAndRestore(tmp_path / "backup")), trained())


def test_ctrl_c_in_a_validation_leaves_the_weights_of_the_last_step():
    whole, broken = (make(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)) for _ in range(2))
    kept = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: kept.extend(variable.numpy() for variable in whole.trainable_variables)
    )
    whole.fit(X, batch_size=8, verbose=0, callbacks=[keep])  # at whose end Keras puts averages in their place
    with pytest.raises(KeyboardInterrupt):
        broken.fit(X, batch_size=8, verbose=0, validation_data=X, callbacks=[Broken(on_test_batch_begin=0)])
    for ours, theirs in zip(broken.trainable_variables, kept, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)  # Keras swaps weights by sums


def test_a_training_that_diverges_is_an_error_and_leaves_weights_that_are_numbers():
    model = make(keras.optimizers.SGD(1e30))
    with pytest.raises(NonFiniteError, match=r"`learning_rate` must keep training finite.*`on_nonfinite=skip`"):
        model.fit(X, epochs=3, batch_size=8, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_eager_steps_are_those_of_a_graph(fitted):
    model = make(run_eagerly=True)
    model.fit(X, batch_size=8, verbose=0)
    for a, b in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.fixture(scope="module")
def convolutional():
    model = make(channels=[2, 3])
    model.fit(X, batch_size=8, verbose=0)
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_keras_s_number_types_change_nothing(policy, convolutional):
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx("float64")
    try:
        ours = make(channels=[2, 3])
        ours.fit(X, batch_size=8, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
    for a, b in zip(ours.get_weights(), convolutional.get_weights(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-5)  # the optimizer's learning rate is rounded otherwise
    with pytest.raises(ValueError, match=r"dtype must be float32\. Received: mixed_float16"):
        LDIAF(dtype="mixed_float16")


def test_an_encoder_of_half_precision_may_be_brought():
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(8, "relu", dtype="mixed_float16")])
    model = LDIAF(num_nodes=2, node_dim=2, num_flow_steps=0, encoder=encoder, decoder_units=[8])
    model.compile(jit_compile=False)
    assert np.isfinite(model.fit(X, verbose=0).history["loss"])


def test_keras_s_data_format_changes_nothing():
    model = make(channels=[2, 3])
    codes = model.encode(X)
    keras.config.set_image_data_format("channels_first")
    try:
        other = make(channels=[2, 3])
        np.testing.assert_array_equal(other.encode(X), codes)
        np.testing.assert_array_equal(model.encode(X), codes)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("is_built", [True, False])
def test_a_tensorflow_checkpoint_has_every_variable(is_built, tmp_path):
    model = make()
    model.fit(X, verbose=0)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    copy = make() if is_built else LDIAF.from_config(model.get_config())
    status = tf.train.Checkpoint(model=copy).restore(path)
    if not is_built:
        copy.build((None, 4, 4))
    status.assert_existing_objects_matched()
    status.expect_partial()
    assert_equal(copy, model)


def test_a_new_process_that_imports_the_package_loads_a_model(tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    program = (
        "import tf_ldiaf, keras, numpy as np; x = np.load('x.npy');"
        "np.save('codes.npy', keras.models.load_model('model.keras').encode(x))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "codes.npy"), model.encode(X), atol=1e-5)


def test_another_backend_of_keras_is_one_sentence():
    program = "import keras; keras.backend.backend = lambda: 'jax'; import tf_ldiaf"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stderr.endswith("ImportError: Keras must have the backend tensorflow. Received: jax.\n")


def test_encoder_and_decoder_are_saved_by_themselves(tmp_path):
    model = make(channels=[2, 3])
    for network, x in ((model.encoder, X.reshape(40, 16)), (model.decoder, np.ones((5, 4), "float32"))):
        network.save(tmp_path / "network.keras")
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "network.keras")(x), network(x))


def test_a_loop_of_one_s_own_trains_with_new_draws_in_every_step():
    model = make()
    optimizer = keras.optimizers.Adam(0.05)
    losses = []
    for _ in range(25):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model(X, training=True).elbo())
        gradients = tape.gradient(loss, model.trainable_variables)
        assert all(gradient is not None for gradient in gradients)
        optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1
    assert float(tf.reduce_mean(model(X).elbo())) != float(tf.reduce_mean(model(X).elbo()))
    np.testing.assert_array_equal(model(X, seed=3).elbo(), model(X, seed=3).elbo())


def test_a_model_is_compiled_again_with_another_optimizer():
    model = make()
    model.fit(X, verbose=0)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    model.fit(X, verbose=0)
    for ours, theirs in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_summary_has_every_part_with_its_parameters(capsys):
    model = make()
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    for part in ("encoder", "graph", "decoder"):
        assert part in text
    assert f"{sum(int(np.prod(w.shape)) for w in model.trainable_weights):,}" in text


DROPPED = """
import gc, tensorflow as tf, tf_ldiaf

def trace_and_drop():
    model = tf_ldiaf.LDIAF(num_nodes=2, node_dim=2, num_flow_steps=1, encoder_units=[8], decoder_units=[8])
    model.build((None, 4, 4))

    def gradient(x):
        with tf.GradientTape() as tape:
            codes = model.encode(x)
            loss = tf.reduce_sum(model(x, seed=1).elbo()) + tf.reduce_sum(model.posterior(x).log_prob(codes))
        return tape.gradient(loss, model.trainable_variables)

    tf.function(gradient).get_concrete_function(tf.TensorSpec([8, 4, 4]))

for _ in range(3):
    trace_and_drop()
    gc.collect()
    print(sum(type(thing).__name__ == "SymbolicTensor" for thing in gc.get_objects()))
"""


@pytest.mark.long
def test_a_model_that_is_dropped_leaves_no_graph_behind():
    done = subprocess.run([sys.executable, "-c", DROPPED], env=environment(), capture_output=True, text=True)
    first, second, third = map(int, done.stdout.split())
    assert third == second <= first + 10
