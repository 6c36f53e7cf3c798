"""What `compile` and `fit` refuse in one sentence, and what of Keras's own arguments they must not be misled by."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_keras_users import GREY, X, assert_equal, batches, make

from tf_ldiaf import LDIAF, structure
from tf_ldiaf.errors import DataError

SMALL = {"node_dim": 2, "encoder_units": [8], "decoder_units": [8], "node_units": [8], "flow_units": [8]}


def small(edges=None, **settings):
    model = LDIAF(num_nodes=3, edges=edges, **SMALL, **settings)
    model.compile("adam", jit_compile=False, structure_epochs=6)
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
    model = small([(3, 1), (2, 1)])
    model.build((None, 4, 4))
    model.encoder.trainable = False
    model.graph.flows.trainable = False
    model.decoder.layers[0].trainable = False
    model.fit(X, verbose=0)
    copy = copied(model, tmp_path)
    flags = [weight.trainable for weight in model.weights]
    assert 0 < sum(flags) < len(flags)
    assert [weight.trainable for weight in copy.weights] == flags
    assert [copy.encoder.trainable, copy.decoder.trainable, copy.graph.flows.trainable] == [False, True, False]
    if copied is not by_clone:  # which is not compiled
        for each in (model, copy):
            each.fit(X, epochs=2, verbose=0)
        assert_equal(copy, model)
    other = structure.with_edges(copy, [(3, 2)])
    assert [weight.trainable for weight in other.encoder.weights] == [False] * len(other.encoder.weights)
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
    with pytest.raises(DataError, match=r"255 is white in uint8\. Received: uint8 of 0 and 1"):
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
