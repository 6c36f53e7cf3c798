"""python -m benchmarks.first_step --run_dir=NEW [flags]: the shipped training command up to its first finished launch.

Prints one JSON line with the seconds from START_TIME (or the start of the process) to the end of each stage.
"""

import contextlib
import json
import os
import sys
import time

from tf_ldiaf import cli, train

stages = {}
start = float(os.environ.get("START_TIME", time.time()))
quiet_tensorflow = cli.quiet_tensorflow


def stage(name, function):
    """`function`, which tells when it first ended."""

    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        stages.setdefault(name, time.time() - start)
        return result

    return wrapped


@contextlib.contextmanager
def observed():
    """In place of the command's imports: the same, and then stages are told."""
    with quiet_tensorflow() as request:
        yield request
        import keras

        from tf_ldiaf import LDIAF, data
    stages["import"] = time.time() - start
    data.load_training = stage("data", data.load_training)
    LDIAF.fit = beginning(LDIAF.fit)
    LDIAF.train_step = stage("tracing", LDIAF.train_step)
    keras.callbacks.CallbackList.on_train_batch_end = end


def beginning(fit):
    def wrapped(*args, **kwargs):
        stages["build"] = time.time() - start
        return fit(*args, **kwargs)

    return wrapped


def end(*_, **__):
    stages["first_step"] = time.time() - start
    print(json.dumps(stages), flush=True)
    sys.exit()


if __name__ == "__main__":
    cli.quiet_tensorflow = observed
    sys.argv[0] = "train"
    cli.run(train.main, "The training command up to its first finished launch.", train.FLAGS)
