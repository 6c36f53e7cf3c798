"""The private interfaces of other packages are still there, and do what we use them for."""

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.execution import private


def test_keras_optimizer_asks_for_the_sum_of_gradients_unless_told_otherwise():
    assert hasattr(keras.optimizers.SGD, "_all_reduce_sum_gradients")
    optimizer = keras.optimizers.SGD(1.0)
    variable = keras.Variable(np.zeros(2, "float32"))
    asked = []
    optimizer._all_reduce_sum_gradients = lambda pairs: asked.append(1) or list(pairs)
    optimizer.apply([tf.ones(2)], [variable])
    assert asked, "Keras no longer asks for the sum there"
    private.without_gradient_sum(optimizer)
    optimizer.apply([tf.ones(2)], [variable])
    assert len(asked) == 1
    np.testing.assert_array_equal(variable, -2 * np.ones(2))


def test_keras_model_would_be_built_symbolically():
    assert hasattr(keras.Model, "_maybe_symbolic_build")
    model = type("Model", (private.WithoutSymbolicBuild, keras.Model), {})()
    assert model._maybe_symbolic_build(iterator=iter(())) is None


def test_downloads_are_not_retried_within_the_block_only():
    from tensorflow_datasets.core.download import downloader

    before = downloader.MAX_RETRIES
    assert before > 0
    with private.no_download_retries():
        assert downloader.MAX_RETRIES == 0
    assert before == downloader.MAX_RETRIES


def test_workers_are_coordinated_by_an_interface_that_tensorflow_still_has():
    from tensorflow.python.eager import context

    assert hasattr(context.context(), "configure_coordination_service")
    assert hasattr(tf.compat.v1.ConfigProto().experimental.coordination_config, "coordinated_job_list")


def test_bijectors_keep_values_within_the_block_only():
    import tensorflow_probability as tfp

    bijector, x = tfp.bijectors.Exp(), tf.constant([1.0])
    outside = bijector.forward(x)
    with private.bijector_values_forgotten():
        within = bijector.forward(x)
        assert within is not outside
        assert bijector.inverse(within) is x  # it is kept here
    assert bijector.inverse(outside) is x
    assert bijector.inverse(within) is not x
