"""What takes minutes: `make test-long`. Each prints what it did."""

import concurrent.futures
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from test_bad_input import FORKS, run_here
from test_cli import REPO, environment

from tf_ldiaf import cli
from tf_ldiaf.results import checkpoints
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.training import recorder

pytestmark = pytest.mark.long

# The shipped command, but with a checkpoint after every launch: kills fall within writes too.
TRAIN = """
import sys
from tf_ldiaf import cli, train

def main():
    with cli.quiet_tensorflow():
        from tf_ldiaf.training import recorder
    recorder._SECONDS_BETWEEN_CHECKPOINTS = 0
    train.main()

cli.run(main, "", train.FLAGS)
"""
FLAGS = [
    "--method=ldiaf", "--node_dim=4", "--encoder_units=64,32", "--decoder_units=64", "--structure_epochs=5",
    "--epochs=20", "--limit_train=768", "--batch_size=64", "--steps_per_execution=2", "--binarization=dynamic",
    "--optimizer=adamw", "--weight_decay=0.1", "--ema_decay=0.9", "--kl_warmup_epochs=2",
]  # fmt: skip


NUM_KILLS, AT_A_TIME = 200, 2
# Without XLA, which would compile at each start: what a killed process compiled is not kept.
KILLED = [*FLAGS, "--dataset=digits", "--nojit_compile"]


def start(folder, *flags):
    line = [sys.executable, "-u", "-c", TRAIN, f"--run_dir={folder}", *flags]
    env = environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Output and errors, without what TensorFlow says when a program imports it before the command is run."""
    output, errors = process.communicate()
    return output, "".join(line for line in errors.splitlines(True) if not cli._CHATTER.search(line))


def train_again(cwd, line, output):
    """The shipped command in a forked process, with as many checkpoints; its output is in two files of a folder."""
    recorder._SECONDS_BETWEEN_CHECKPOINTS = 0
    run_here(cwd, line, output)


def modified(file):
    return file.stat().st_mtime_ns if file.exists() else None


def events(folder):
    """(step, tag) of all scalars and pictures."""
    found = []
    for file in folder.glob("*/events.*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [(event.step, file.parent.name, value.tag) for value in event.summary.value]
    return sorted(found)


def test_a_training_killed_two_hundred_times_ends_like_an_uninterrupted_one(tmp_path):
    """Kills at random moments over all phases, run after run until there were 200; each run ends to the same bits."""
    whole = start(tmp_path / "whole", *KILLED)
    _, errors = ended(whole)
    assert whole.returncode == 0, errors
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        for found in [pool.submit(killed_runs, tmp_path, i, NUM_KILLS // AT_A_TIME) for i in range(AT_A_TIME)]:
            found.result()


def killed_runs(tmp_path, seed, num_kills):
    """Run after run until there were so many kills; each must end like the whole one."""
    moments, kills, runs = random.Random(seed), 0, 0
    while kills < num_kills:
        folder = tmp_path / f"killed_{seed}_{runs}"
        kills += killed_run(folder, moments, num_kills - kills)
        assert_same_run(RunFolder(folder), RunFolder(tmp_path / "whole"))
        runs += 1
    print(f"{kills} kills in {runs} runs.")
    assert kills == num_kills


def killed_run(folder, moments, most_kills):
    """A training that is killed and resumed until it ends; how many times it was killed."""
    kills, warnings, begins = 0, 0, []
    output = folder.with_suffix(".said")
    output.mkdir()
    last, config = folder / "checkpoints" / "last.keras", folder / "config.json"
    while True:
        line = ["train", f"--run_dir={folder}", *(["--resume"] if config.exists() else KILLED)]
        process = FORKS.Process(target=train_again, args=(folder.parent, line, output))
        for name in ("out", "err"):
            (output / name).write_text("")  # it may be killed before it opens them
        process.start()
        if kills < most_kills:
            # One in four at any moment from the start on, the others after the first checkpoint of this process.
            at_any_moment = moments.random() < 0.25
            if not at_any_moment:
                before = modified(last)
                while process.is_alive() and modified(last) == before:
                    time.sleep(0.02)
            time.sleep(moments.uniform(0, 10 if at_any_moment else 1.5))
            if process.is_alive():
                process.kill()
                kills += 1
        process.join()
        said, errors = ((output / name).read_text() for name in ("out", "err"))
        begins += [" ".join(found) for found in re.findall(r"(\w+) phase:.*\nContinuing after (\S+)", said)]
        warnings += errors.count("Warning:")
        assert errors.count("\n") == errors.count("Warning:"), errors
        if process.exitcode == 0:
            break
    print(f"{kills} kills; went on from the {'; '.join(begins)}; {warnings} times from the previous checkpoint.")
    return kills


def assert_same_run(ours, theirs):
    of_a_clock = {"images_per_second": 0, "seconds": 0}
    histories = ([row | of_a_clock for row in folder.read_history()] for folder in (ours, theirs))
    assert next(histories) == next(histories)
    assert ours.read_gates() == theirs.read_gates()
    assert events(ours.tensorboard) == events(theirs.tensorboard)
    for file in ("last", "best"):
        models = [checkpoints.load(getattr(folder, file)) for folder in (ours, theirs)]
        kept = (m.variables + (m.optimizer.variables if file == "last" else []) for m in models)
        for a, b in zip(*kept, strict=True):
            assert np.array_equal(a, b), (file, a.path)


MODELS = """
import gc, os, sys, numpy as np, keras, tf_ldiaf
x = np.random.default_rng(0).integers(0, 2, (64, 6, 6)).astype("float32")
jit_compile = sys.argv[2] == "True"

def ours():
    model = tf_ldiaf.LDIAF(num_nodes=2, node_dim=4, encoder_units=[32], decoder_units=[32])
    model.compile("adam", jit_compile=jit_compile)
    model.fit(x, verbose=0)

def keras_s():
    between = int(sys.argv[3]) * [32]
    layers = [keras.layers.Dense(units, "elu") for units in (32, *between, 8, 32)]
    model = keras.Sequential([keras.layers.Flatten(), *layers, keras.layers.Dense(36)])
    model.compile("adam", "mse", jit_compile=jit_compile)
    model.fit(x, x.reshape(64, -1), verbose=0)

for i in range(int(sys.argv[4])):
    {"ours": ours, "keras_s": keras_s}[sys.argv[1]]()
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    print(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


# TensorFlow keeps every program that XLA compiled (its issue 64170), of any model. A larger program takes more. So
# with XLA the plain model has as many matrix products in a step: 110, three of each layer but two of the first. Ours
# has 112.
@pytest.mark.parametrize(("jit_compile", "between", "num_models"), [(False, 0, 30), (True, 33, 12)])
def test_models_that_are_dropped_leave_no_more_than_keras_s(jit_compile, between, num_models):
    growth = {}
    for name in ("ours", "keras_s"):
        line = [sys.executable, "-c", MODELS, name, str(jit_compile), str(between), str(num_models)]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
        resident = [float(text) for text in done.stdout.split()]
        growth[name] = (resident[-1] - resident[4]) / (num_models - 5)
    print("MiB a model:", growth)
    assert growth["ours"] < growth["keras_s"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_is_intact(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    try:
        process = start(disk / "run", *FLAGS)
        _, errors = ended(process)
        assert process.returncode == 2
        assert re.fullmatch(r"\S+: \S+ must be a folder that can be written\. Received: .*No space left.*\n", errors)
        files = sorted(file.name for file in (disk / "run" / "checkpoints").iterdir())
        print("A full disk:", errors.strip(), "Kept:", files)
        assert not any(name.startswith("part-") for name in files)
        process = start(disk / "run", "--resume")
        _, errors = ended(process)
        assert process.returncode == 2
        assert errors.count("\n") == 1
        assert "No space left" in errors
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        process = start(disk / "run", "--resume")
        output, errors = ended(process)
        assert process.returncode == 0
        assert errors == ""
        assert "Continuing after" in output
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_hundred_epochs_of_digits_need_no_more_of_anything(tmp_path):
    """Memory within 3 %, as many open files, and event files that grow by the epoch, not faster."""
    flags = ["--dataset=digits", "--structure_epochs=10", "--epochs=190", f"--run_dir={tmp_path}/run"]
    line, found = [sys.executable, "-u", "-m", "tf_ldiaf.train", *flags], []
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL) as process:
        proc = pathlib.Path(f"/proc/{process.pid}")
        while process.poll() is None:
            time.sleep(0.02)
            if sum(row["phase"] == "final" for row in folder.read_history()) > len(found):
                resident = int(re.search(r"VmRSS:\s*(\d+)", (proc / "status").read_text()).group(1)) / 1024
                events = list(folder.tensorboard.rglob("events.*"))
                found.append((resident, len(list((proc / "fd").iterdir())), len(events), sum(map(size, events))))
        assert process.wait() == 0
    found = np.array(found)
    print("MiB, open files, event files, their bytes in epochs 20, 50, 100, 150, 190 of the final phase:")
    print(found[[19, 49, 99, 149, 189]].round(1).tolist())
    memory, handles, num_events, num_bytes = found[49:].T
    assert memory.max() < 1.03 * memory.min()
    assert handles.max() <= handles[0] + 1  # a checkpoint may just be written
    assert num_events.max() == num_events[0]
    assert num_bytes[-1] - num_bytes[70] < 1.2 * (num_bytes[70] - num_bytes[0])
    assert num_bytes[-1] < 20e6


def size(file):
    return file.stat().st_size


def test_eight_threads_get_right_answers_and_soon():
    """4,000 requests of mixed kinds and sizes to the shipped model, each compared with what it answers alone."""
    signatures = tf.saved_model.load(str(REPO / "saved_models" / "mnist_ldiaf")).signatures
    rng = np.random.default_rng(0)
    digits = (rng.random((64, 28, 28)) < 0.2).astype("float32")

    def request(kind, num, seed):
        if kind == "sample":
            return signatures[kind](num=tf.constant(num), seed=tf.constant(seed))
        arguments = {"images": tf.constant(digits[:num])}
        if kind != "encode":
            arguments["seed"] = tf.constant(seed)
        if kind == "log_likelihood":
            arguments["num_importance_samples"] = tf.constant(4)
        return signatures[kind](**arguments)

    kinds = ("sample", "encode", "reconstruct", "log_likelihood")
    requests = [(kind, num, seed) for kind in kinds for num in (1, 3, 8, 21, 64) for seed in (0, 1)]
    expected = {key: {name: value.numpy() for name, value in request(*key).items()} for key in requests}

    def work(thread):
        seconds = []
        for i in np.random.default_rng(thread).integers(0, len(requests), 500):
            begun = time.perf_counter()
            answer = request(*requests[i])
            for name, value in expected[requests[i]].items():
                if name == "images":  # draws: the last bit of a mean may turn one over
                    continue
                assert np.allclose(answer[name].numpy(), value, rtol=1e-5, atol=1e-4), requests[i]
            seconds.append(time.perf_counter() - begun)
        return seconds

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        seconds = np.concatenate(list(threads.map(work, range(8))))
    print(f"{len(seconds)} requests: median {1e3 * np.median(seconds):.1f} ms, slowest {1e3 * seconds.max():.1f} ms.")
    assert len(seconds) == 4000
    assert seconds.max() < 20 * np.median(seconds)
