"""What `compile` and `fit` refuse in one sentence, and what of Keras's own arguments they must not be misled by."""

import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_keras_users import GREY, X, assert_equal, batches, make

from tf_ldiaf import LDIAF, structure
from tf_ldiaf.errors import DataError

SMALL = {"node_dim": 2, "encoder_units": [8], "decoder_units": [8], "node_units": [8], "flow_units": [8]}


def small(edges=None, run_eagerly=False, **settings):
    model = LDIAF(num_nodes=3, edges=edges, **SMALL, **settings)
    model.compile("adam", jit_compile=False, structure_epochs=6, run_eagerly=run_eagerly)  # of few steps it is faster
    return model


@pytest.fixture(scope="module")
def shut():
    """A model in the first half of its structure epochs, whose gates are all shut."""
    model = small()
    model.fit(X, verbose=0)
    assert model.edges == []
    return model


def by_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def by_weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    copy = small()
    copy.build((None, 4, 4))
    copy.load_weights(folder / "model.weights.h5")
    return copy


def by_checkpoint(model, folder):
    path = tf.train.Checkpoint(model=model).save(folder / "checkpoint")
    copy = small()
    copy.build((None, 4, 4))
    tf.train.Checkpoint(model=copy).restore(path).expect_partial()
    return copy


def by_clone(model, _):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def by_pickle(model, _):
    return pickle.loads(pickle.dumps(model))  # noqa: S301


@pytest.mark.parametrize("copied", [by_file, by_weights, by_checkpoint, by_clone, by_pickle])
def test_gates_that_are_shut_are_shut_in_a_copy(copied, shut, tmp_path):
    copy = copied(shut, tmp_path)
    assert copy.edges == []
    np.testing.assert_array_equal(copy.encode(X), shut.encode(X))
    np.testing.assert_array_equal(copy.sample(3, seed=0)["probs"], shut.sample(3, seed=0)["probs"])
    copy.gates.shut(False)
    assert copy.edges == [(2, 1), (3, 1), (3, 2)]


@pytest.mark.parametrize("copied", [by_file, by_clone, by_pickle])
def test_what_is_frozen_is_frozen_in_a_copy(copied, tmp_path):
    model = small([(3, 1), (2, 1)], run_eagerly=True)
    model.build((None, 4, 4))
    model.encoder.trainable = False
    model.graph.flows.trainable = False
    model.decoder.layers[0].trainable = False
    model.fit(X, batch_size=40, verbose=0)
    copy = copied(model, tmp_path)
    flags = [weight.trainable for weight in model.weights]
    assert 0 < sum(flags) < len(flags)
    assert [weight.trainable for weight in copy.weights] == flags
    assert [copy.encoder.trainable, copy.decoder.trainable, copy.graph.flows.trainable] == [False, True, False]
    if copied is not by_clone:  # which is not compiled
        for each in (model, copy):
            each.fit(X, batch_size=40, verbose=0)
        for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)  # eager sums are in no fixed order
    other = structure.with_edges(copy, [(3, 2)])
    assert [weight.trainable for weight in other.encoder.weights] == [False] * len(other.encoder.weights)
    less = LDIAF.from_config(copy.get_config() | {"num_flow_steps": 0})
    less.build((None, 4, 4))
    assert not less.encoder.trainable
    copy.encoder.trainable = True
    assert all(weight.trainable for weight in copy.encoder.weights)


@pytest.mark.parametrize("x", [X, np.zeros((9, 8, 8, 1)), X.reshape(40, 16)])
def test_a_data_set_of_single_images_is_refused(x):
    with pytest.raises(DataError, match=r"batches of images: `x\.batch\(128\)`\. Received: elements of shape \("):
        small().fit(tf.data.Dataset.from_tensor_slices(x), verbose=0)


def test_channels_that_come_first_are_refused():
    with pytest.raises(ValueError, match=r"channels last.* Received: images of \(3, 8, 8\)"):
        small(likelihood="discretized_logistic").fit(np.zeros((8, 3, 8, 8), "uint8"), verbose=0)


def test_black_and_white_bytes_are_not_taken_for_black():
    with pytest.raises(DataError, match=r"255 is white in uint8\. Received: uint8 without any above 1"):
        make(binarization="dynamic").fit(X.astype("uint8"), verbose=0)


@pytest.mark.parametrize("name", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_another_loss_or_metric_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} must be None: the loss is -ELBO.* Received: \['mse'\]"):
        make(**{name: ["mse"]})
    make(**{name: None})
    make(**{name: []})


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "must not scale the loss"),
        (lambda: keras.optimizers.Adam(loss_scale_factor=1024), "must not scale the loss"),
        (lambda: keras.optimizers.Adam(gradient_accumulation_steps=4), "must learn at every step"),
    ],
)
def test_optimizers_that_would_be_misled_are_refused(optimizer, sentence):
    with pytest.raises(ValueError, match=f"^optimizer {sentence}.*Received: "):
        make(optimizer())


def test_averaged_weights_are_validated_with_keras_s_own_callback_too():
    def validated(*callbacks):
        model = make(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5))
        history = model.fit(X, epochs=2, batch_size=8, verbose=0, validation_data=X, callbacks=list(callbacks))
        return model, history.history["val_loss"]

    ours, theirs = validated(), validated(keras.callbacks.SwapEMAWeights())
    assert ours[1] == theirs[1]
    assert_equal(ours[0], theirs[0])


def test_a_callback_that_averages_stays_before_one_that_saves():
    """Keras's documented order: a checkpoint at an epoch's end then has the averaged weights."""
    model = make(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.999999))  # its average is of the first step
    seen = []

    def look(*_, **__):
        seen.append(model.trainable_variables[0].numpy())

    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.LambdaCallback(on_train_batch_end=look, on_epoch_end=look),
    ]
    model.fit(X, batch_size=8, verbose=0, callbacks=callbacks)
    first, *_, last, kept = seen
    np.testing.assert_allclose(kept, first, atol=1e-3)
    assert np.abs(kept - last).max() > 0.05


def test_arguments_that_are_none_change_nothing():
    ours, theirs = make(), make()
    ours.fit(X, batch_size=8, verbose=0)
    theirs.fit(X, batch_size=8, verbose=0, sample_weight=None, class_weight=None, steps_per_epoch=None)
    assert_equal(ours, theirs)


def test_batches_of_as_many_rows_as_pixels_are_no_images():
    """Their number is not known, so they are not taken for squares."""
    model = small()
    model.fit(batches(GREY[:8].reshape(8, 16) // 128), verbose=0)
    assert model.image_shape == (16,)


# Weights of images


def of_tf_data(x, weight):
    return {"x": tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)), weight)).batch(40)}


def of_arrays(x, weight):
    return {"x": x, "sample_weight": weight, "batch_size": 40, "shuffle": False}


@pytest.mark.parametrize(("give", "kind"), [(of_arrays, "int32"), (of_tf_data, "float64")])
def test_images_without_weight_are_not_learned_from(give, kind):
    """Those of weight 0 may be any others, although no labels are given."""
    weight = (np.arange(40) % 2).astype(kind)
    others = np.where(weight[:, np.newaxis, np.newaxis] > 0, X, 1 - X)
    ours, theirs, plain = (make(run_eagerly=True) for _ in range(3))
    for model, x in ((ours, X), (theirs, others)):
        model.fit(**give(x, weight), verbose=0)
    assert_equal(ours, theirs)
    plain.fit(**give(X, np.ones(40)), verbose=0)
    assert (plain.get_weights()[-1] != ours.get_weights()[-1]).any()


def test_weights_count_in_a_validation_and_an_evaluation():
    weight, model = np.repeat([0, 1], 20), make(run_eagerly=True)
    half = model.evaluate(X, sample_weight=weight, verbose=0, return_dict=True)["elbo"]
    assert abs(half - model.evaluate(X, verbose=0, return_dict=True)["elbo"]) > 1e-3
    history = model.fit(X, verbose=0, validation_data=(X, None, weight)).history
    np.testing.assert_allclose(
        history["val_elbo"], model.evaluate(X, sample_weight=weight, verbose=0, return_dict=True)["elbo"], rtol=1e-5
    )


# Callbacks


def test_what_is_best_has_the_weights_that_were_validated(tmp_path):
    """They are averages; `use_ema` is the optimizer's."""
    model = make(keras.optimizers.Adam(0.3, use_ema=True, ema_momentum=0.8))
    callbacks = [
        keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
    ]
    history = model.fit(X[:8], epochs=12, verbose=0, validation_data=X[8:], callbacks=callbacks).history
    assert history["val_loss"][-1] > min(history["val_loss"])
    for found in (model, keras.models.load_model(tmp_path / "best.keras")):
        loss = found.evaluate(X[8:], verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(loss, min(history["val_loss"]), rtol=1e-5)


def test_edges_that_are_not_learned_yet_are_said(shut):
    with pytest.warns(UserWarning, match=r"gates are still shut.*no edge is learned yet"):
        small(run_eagerly=True).fit(X, batch_size=40, verbose=0)
    with pytest.raises(ValueError, match=r"^model must have edges.*gates are still shut"):
        structure.edge_worth(shut, X, num_steps=1)
    with pytest.raises(ValueError, match="must know the size of its images"):
        structure.edge_worth(small(), X)
    model = small(run_eagerly=True)
    with warnings.catch_warnings(action="error"):
        model.fit(X, batch_size=40, epochs=4, verbose=0)
    assert model.gates.open.numpy().any()


# Elements that are no batches of images


def test_a_generator_of_single_images_is_refused():
    with pytest.raises(ValueError, match=r"x must be batches of images.*Received: elements of shape \(None, 4\)"):
        small().fit(((image,) for image in X), steps_per_epoch=2, verbose=0)


def test_labels_of_an_unknown_number_of_axes_are_ignored():
    def with_label(i):
        label = tf.numpy_function(lambda i: i, [i], tf.int64)
        return tf.gather(X, i), label

    model = small()
    model.build((None, 4, 4))
    history = model.fit(tf.data.Dataset.range(40).map(with_label).batch(8), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_seed_may_be_numpy_s():
    model = make()
    draws = [model.sample(3, seed=seed)["images"] for seed in (7, np.int64(7), np.int32(7))]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_weight_decay_leaves_out_what_the_user_says_and_what_is_no_kernel():
    optimizer = keras.optimizers.AdamW(1e-9, weight_decay=1e8)
    layers = [keras.layers.Dense(8), keras.layers.Dense(8, name="mine"), keras.layers.BatchNormalization()]
    layers += [keras.layers.PReLU()]
    encoder = keras.Sequential([keras.Input((16,)), *layers])
    optimizer.exclude_from_weight_decay(var_list=[encoder.layers[1].kernel], var_names=["alpha"])
    model = LDIAF(num_nodes=1, num_flow_steps=0, encoder=encoder, **SMALL)
    model.compile(optimizer, jit_compile=False)
    model.build((None, 4, 4))
    for weight in model.trainable_weights:
        weight.assign(tf.ones(weight.shape))
    model.fit(X, epochs=1, batch_size=40, verbose=0)
    for weight in model.trainable_weights:
        is_decayed = weight.name == "kernel" and "mine" not in weight.path
        assert (abs(float(tf.reduce_max(abs(weight.value))) - 1.0) > 0.05) == is_decayed, weight.path


# Arrays that are nearly right


class Table:
    """An array of another package, such as a data frame."""

    def __init__(self, x):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


def test_weights_count_for_arrays_of_other_packages_too():
    weight = np.where(np.arange(len(X)) < 8, 1.0, 0.0)
    others = np.where(weight[:, np.newaxis, np.newaxis] > 0, X, 1 - X)
    model, other = make(run_eagerly=True), make(run_eagerly=True)
    model.fit(Table(X), sample_weight=weight, verbose=0)
    other.fit(others, sample_weight=weight, verbose=0)
    assert_equal(model, other)
    expected = model.evaluate(X, sample_weight=weight, verbose=0)[0]
    assert abs(expected - model.evaluate(X, verbose=0)[0]) > 1e-3
    for found in (
        model.evaluate(Table(X), sample_weight=weight, verbose=0)[0],
        model.evaluate(X, None, 32, 0, weight)[0],
    ):
        assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="pixels that are 0 or 1"):
        model.fit(Table(X * 255), verbose=0)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ma.masked_less(X, 1), "without a mask"),
        (X.astype(object), "must be numbers. Received: an array of object"),
        (X.astype(str), "must be numbers"),
    ],
)
def test_arrays_that_are_no_numbers_or_have_a_mask_are_one_sentence(x, words):
    with pytest.raises(DataError, match=words):
        small([]).fit(x, verbose=0)


def test_black_and_white_bytes_are_no_pixels_of_256_values():
    model = LDIAF(2, 2, edges=[], encoder_units=[4], decoder_units=[4], likelihood="discretized_logistic")
    model.compile(jit_compile=False, run_eagerly=True)
    with pytest.raises(DataError, match=r"uint8 in 0-255 or float in 0-1.*if 1 means white, convert it to float\."):
        model.fit(X.astype("uint8"), verbose=0)
    with pytest.raises(DataError, match="uint8 in 0-255 or float in 0-1"):
        model.fit(batches(X.astype("uint8")), verbose=0)
    model.fit(X, verbose=0)


def test_greys_that_are_scaled_twice_are_warned_of():
    model = small([])
    model.compile(binarization="dynamic", jit_compile=False, run_eagerly=True)
    with pytest.warns(UserWarning, match=r"No pixel of `x` is above 0\.00392, where 1 is white"):
        model.fit(GREY / 255.0 / 255.0, batch_size=40, verbose=0)
