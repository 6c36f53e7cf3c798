"""Over which devices and machines a training is spread: TensorFlow's own strategies, and what may fail in them."""

import atexit
import contextlib
import os
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_ldiaf.errors import ConfigError, WorkerError
from tf_ldiaf.execution.private import coordinate_workers

# How long workers wait for each other at the start, and how soon one that is gone is missed.
_START_SECONDS = 120
_HEARTBEAT_SECONDS = 10
_END_SECONDS = 10
# What TensorFlow raises in a worker when another one is gone.
_LOST = (
    *(tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError),
    *(tf.errors.CancelledError, tf.errors.InternalError, tf.errors.FailedPreconditionError),
)


def make_strategy(name: str, obey: Callable[[], None] = lambda: None) -> tf.distribute.Strategy:
    """The strategy that `--distribute` names; to be made before anything else is asked of TensorFlow.

    Args:
        name: none; mirrored, over all GPUs of this machine or, without one, its logical CPUs; or multi_worker, over the
            machines that TF_CONFIG or Slurm name.
        obey: called while the first worker waits for others; what it raises ends that.

    Raises:
        ConfigError: no cluster is named.
        WorkerError: not all of its workers came.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) == 1:
            return tf.distribute.get_strategy()
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    resolver = _cluster()
    spec = resolver.cluster_spec()
    if set(spec.jobs) != {"worker"} or resolver.task_type != "worker":
        raise ConfigError(f"TF_CONFIG must name workers only, this process among them. Received: {spec.as_dict()}.")
    if spec.num_tasks("worker") == 1:
        return make_strategy("mirrored")
    coordinate_workers(spec.num_tasks("worker"), _START_SECONDS, _HEARTBEAT_SECONDS, _END_SECONDS)
    if resolver.task_id == 0:
        _wait_for(spec.job_tasks("worker")[1:], obey)  # TensorFlow's first worker would wait for ever
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        raise _missing(spec.job_tasks("worker")[:1], str(error).splitlines()[0][:200]) from None


def _wait_for(workers, obey):
    """Until all of them answer."""
    end, reason = time.monotonic() + _START_SECONDS, ""
    missing = list(workers)
    while missing:
        obey()
        host, _, port = missing[0].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            missing.pop(0)
        except OSError as error:
            reason = error
            time.sleep(0.2)
        if missing and time.monotonic() > end:
            raise _missing(missing, reason)


def _missing(workers, reason):
    return WorkerError(
        f"All workers of the cluster must start within {_START_SECONDS} seconds. Received: nothing from "
        f"{', '.join(workers)} ({reason})."
    )


def _cluster():
    if "TF_CONFIG" in os.environ:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        try:
            workers = resolver.cluster_spec().job_tasks("worker")
            ports = [int(worker.rpartition(":")[2]) for worker in workers]
            if not workers[resolver.task_id] or max(ports) >= 2**16:
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise ConfigError(
                'TF_CONFIG must be like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
                f'"index": 0}}}}. Received: {os.environ["TF_CONFIG"]}.'
            ) from None
        return resolver
    if "SLURM_STEP_NODELIST" in os.environ:
        # Where there are none, it has to be told of enough of them.
        no_gpus = {"gpus_per_node": 1000, "gpus_per_task": 1, "auto_set_gpu": False}
        port = 10_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000  # two jobs may share a node
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, **({} if shutil.which("nvidia-smi") else no_gpus)
        )
        resolver.cluster_spec()  # only now it knows its own place
        return resolver
    raise ConfigError("`distribute=multi_worker` needs TF_CONFIG, or to be started by srun. Received: neither.")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes the run."""
    return not strategy.cluster_resolver or strategy.cluster_resolver.task_id == 0


@contextlib.contextmanager
def one_voice(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """While workers compute together: only the chief prints, and each says so if another one is gone.

    Raises:
        ConfigError: the memory is too small.
        WorkerError: another worker is gone.
    """
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(sys.stdout if is_chief(strategy) else nowhere),
        ):
            yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(
            "What is read and computed at once must fit into memory; a smaller `batch_size`, `limit_train` or `stream` "
            f"makes it smaller. Received: too little memory ({reason})."
        ) from None
    except _LOST as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        atexit.register(os._exit, 2)  # TensorFlow would wait minutes for the one that is gone
        reason = str(error).splitlines()[0].split("}} ")[-1][:200]  # without which function of TensorFlow it was
        raise WorkerError(
            "All workers must live until the end; start all of them again, a training with `resume`. "
            f"Received: one that is gone ({reason})."
        ) from None


def check_agreement(strategy: tf.distribute.Strategy, stand: str) -> None:
    """Says if the workers of a cluster are about to do different things.

    Args:
        strategy: as `make_strategy` made it.
        stand: what every worker must have.

    Raises:
        WorkerError: they have different ones.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    value = zlib.crc32(stand.encode()) >> 1  # of int32
    found = _of_all(strategy, [value])
    if (found != value).any():
        raise WorkerError(
            "All workers must be given the same settings, images and run. Received: different ones "
            f"(checksums {', '.join(map(str, found))})."
        )


def of_chief(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """The first worker's values [n], for all workers of a cluster, which must call this together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return values
    return _of_all(strategy, values)[: len(values)]


def _of_all(strategy, values):
    """What the devices of all workers have, one after the other."""

    @tf.function
    def of_all():
        def gathered():
            return tf.distribute.get_replica_context().all_gather(tf.constant(values), axis=0)

        return strategy.experimental_local_results(strategy.run(gathered))[0]

    return of_all().numpy()


def any_asks(strategy: tf.distribute.Strategy, asked: bool) -> bool:
    """Whether any worker was asked to stop; all workers must call this together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return asked
    local = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(float(asked)))
    return bool(strategy.reduce(tf.distribute.ReduceOp.SUM, local, axis=None) > 0)
