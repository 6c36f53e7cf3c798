"""Private interfaces of other packages, each in one place, with the version in which it was tried."""

import contextlib
import typing
from collections.abc import Iterator


def coordinate_workers(num_workers: int, start_seconds: int, heartbeat_seconds: int, end_seconds: int) -> None:
    """Sets TensorFlow's service that workers find each other by, before any of them starts it.

    TensorFlow's own waiting times cannot be set otherwise. Tried with tensorflow 2.21.

    Args:
        num_workers: how many there are.
        start_seconds: how long they wait for each other at the start.
        heartbeat_seconds: how soon one that is gone is missed.
        end_seconds: how long they wait for each other at the end.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
    jobs.add(name="worker", num_tasks=num_workers)
    service: typing.Any = context.context()
    service.configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * start_seconds,
        heartbeat_timeout_in_ms=1000 * heartbeat_seconds,
        shutdown_barrier_timeout_in_ms=1000 * end_seconds,
        coordinated_jobs=list(jobs),
    )


@contextlib.contextmanager
def no_download_retries() -> Iterator[None]:
    """Within the block TFDS gives up a download at its first failure; it would retry for minutes, deaf to Ctrl-C.

    Tried with tensorflow-datasets 4.9.10.
    """
    from tensorflow_datasets.core.download import downloader

    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 0
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries


def without_gradient_sum(optimizer) -> None:
    """Keras's optimizer no longer sums gradients over replicas: whoever calls `apply` has done so.

    Gradients are clipped by the norm of their sum, and Keras would clip before it sums. Tried with keras 3.15.
    """
    optimizer._all_reduce_sum_gradients = list


def without_decay(optimizer, names: list[str]) -> None:
    """The optimizer decays no variable whose name has one of `names` in it, nor what it left out before.

    Keras's own method forgets what was left out before. Tried with keras 3.15.
    """
    variables = getattr(optimizer, "_exclude_from_weight_decay", set())
    before = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    optimizer.exclude_from_weight_decay(var_names=[*([before.pattern] if before else []), *names])
    optimizer._exclude_from_weight_decay |= variables


class WithoutSymbolicBuild:
    """A mixin of `keras.Model`: Keras does not call the model on a batch of several workers in order to build it.

    It fails on tuples, and `build` is enough. Tried with keras 3.15.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        pass


@contextlib.contextmanager
def bijector_values_forgotten() -> Iterator[None]:
    """TFP's bijectors keep values of what is computed within the block for as long as that, and no longer.

    They would keep log-determinants, and with them the graph of every model, to the end of the process. Tried with
    tensorflow-probability 0.25.
    """
    import tensorflow_probability as tfp

    cache = vars(tfp.bijectors.Bijector)["_cache"]
    kept, cache.storage = cache.storage, type(cache.storage)()
    try:
        yield
    finally:
        cache.storage = kept
