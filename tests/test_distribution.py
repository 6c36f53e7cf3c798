"""A training spread over devices and workers is the training of one device."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from test_bad_input import refusal
from test_data import numbered
from test_records import prepare

from tests.test_cli import command, environment
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.execution import strategy
from tf_ldiaf.results import checkpoints
from tf_ldiaf.results.run_folder import RunFolder

# Everything that is drawn, averaged, decayed or counted: ten steps an epoch, and 145 images for validation.
ONE_NODE = """
--method=vae
--node_dim=2
--encoder_units=8
--decoder_units=8
--node_units=8
--dataset=digits
--binarization=dynamic
--limit_train=320
--validation_fraction=0.1008
--batch_size=32
--epochs=2
--kl_warmup_epochs=2
--optimizer=adamw
--weight_decay=0.1
--ema_decay=0.9
--nojit_compile
"""
# And a graph, which is learned before.
SETTINGS = (
    ONE_NODE
    + """
--method=ldiaf
--num_nodes=2
--flow_units=8,8
--context_dim=4
--structure_epochs=2
--epochs=3
"""
)
# They stand for GPUs, and must be there before TensorFlow first looks.
LOGICAL_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu[0], {} * [tf.config.LogicalDeviceConfiguration()])
"""
# Sums over replicas round otherwise than sums over a batch.
TOLERANCE = 1e-5


def free_ports(num):
    held = [socket.socket() for _ in range(num)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def start_workers(num, folder, *flags, name="train"):
    """A cluster of `num` workers that train in one run folder, or do what `name` says."""
    hosts, workers = [f"127.0.0.1:{port}" for port in free_ports(num)], []
    for i in range(num):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        line = [sys.executable, "-m", f"tf_ldiaf.{name}", "--distribute=multi_worker", f"--run_dir={folder}", *flags]
        env = environment() | {"TF_CONFIG": json.dumps(cluster)}
        workers.append(
            subprocess.Popen(
                line, env=env, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return workers


def end(workers, timeout=300):
    """(code, output, errors) of each."""
    found = []
    for worker in workers:
        output, errors = worker.communicate(timeout=timeout)
        found.append((worker.returncode, output, errors))
    return found


def assert_same(ours, theirs, tolerance, num_epochs=5):
    """Two runs: weights, optimizer's variables, gates and history."""
    ours, theirs = RunFolder(ours), RunFolder(theirs)
    for file in ("last", "best"):
        a, b = (checkpoints.load(getattr(folder, file)) for folder in (ours, theirs))
        kept = [m.variables + (m.optimizer.variables if file == "last" else []) for m in (a, b)]
        for x, y in zip(*kept, strict=True):
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=0, atol=tolerance, err_msg=f"{file} {x.path}")
    assert len(theirs.read_history()) == num_epochs
    for x, y in zip(ours.read_history(), theirs.read_history(), strict=True):
        assert x.keys() == y.keys()
        for name in x.keys() - {"phase", "images_per_second", "seconds"}:
            assert x[name] == pytest.approx(y[name], rel=10 * tolerance, abs=10 * tolerance), name
    a, b = ours.read_gates(), theirs.read_gates()
    assert a["adjacency"] == b["adjacency"]
    for x, y in zip(a["epochs"], b["epochs"], strict=True):
        np.testing.assert_allclose(x["probs"], y["probs"], atol=tolerance)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one device, of both phases; its folder has the flagfile too."""
    return run_of_one_device(tmp_path_factory.mktemp("spread"), SETTINGS)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same of one node."""
    return run_of_one_device(tmp_path_factory.mktemp("single"), ONE_NODE)


def run_of_one_device(place, settings):
    (place / "settings.cfg").write_text(settings)
    done = command("train", "--flagfile=settings.cfg", "--run_dir=whole", cwd=place, env=environment())
    assert done.returncode == 0, done.stderr
    return place / "whole"


@pytest.mark.long
@pytest.mark.parametrize("num", [2, 4])
def test_mirrored_devices_train_like_one(num, whole, tmp_path):
    program = LOGICAL_DEVICES.format(num) + "from tf_ldiaf import cli, train; cli.run(train.main, '', train.FLAGS)"
    line = [sys.executable, "-c", program, "--distribute=mirrored", f"--run_dir={tmp_path / 'run'}"]
    line += ["--flagfile=settings.cfg"]
    done = subprocess.run(
        line,
        cwd=whole.parent,
        env=environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", whole, TOLERANCE)


@pytest.mark.long
def test_mirrored_devices_evaluate_like_one_compiled():
    program = """
import numpy as np
from tf_ldiaf import Config, data
from tf_ldiaf.execution import strategy as distribution
from tf_ldiaf.results import evaluation
from tf_ldiaf.training.phases import make_model
config = Config(num_nodes=3, node_dim=2, encoder_units=(8,), decoder_units=(8,), edges="all", root_components=2)
x = (np.random.default_rng(0).random((19, 4, 4)) < 0.5).astype("float32")
strategy = distribution.make_strategy("mirrored")
with strategy.scope():
    model = make_model(config, None, (4, 4), num_epochs=1, num_steps=1)
ours = evaluation.per_image(model, x, 5, 7, 0, strategy)
alone = make_model(config, None, (4, 4), num_epochs=1, num_steps=1)
alone.set_weights(model.get_weights())
for name, value in evaluation.per_image(alone, x, 5, 7, 0).items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-4)
found = []
for each, spread in ((model, strategy), (alone, None)):
    batches, num = data.evaluation_batches(x, 7, spread), data.num_evaluation_batches(x, 7, spread)
    found.append(each.evaluate(batches, steps=num, return_dict=True, verbose=0))
assert found[0].keys() == found[1].keys()
for name, value in found[0].items():
    np.testing.assert_allclose(value, found[1][name], rtol=1e-5)
print("the same")
"""
    line = [sys.executable, "-c", LOGICAL_DEVICES.format(2) + program]
    done = subprocess.run(
        line, env=environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("the same\n"), done.stderr


@pytest.mark.long
@pytest.mark.parametrize("num", [2, 4])
def test_workers_train_both_phases_like_one(num, whole, tmp_path):
    found = end(start_workers(num, tmp_path / "run", f"--flagfile={whole.parent / 'settings.cfg'}"))
    assert [code for code, _, _ in found] == [0] * num, found
    assert_same(tmp_path / "run", whole, TOLERANCE)


def test_workers_train_like_one_and_only_the_chief_speaks_and_writes(single, tmp_path):
    found = end(start_workers(2, tmp_path / "run", f"--flagfile={single.parent / 'settings.cfg'}"))
    assert [code for code, _, _ in found] == [0, 0], found
    assert "Best validation ELBO" in found[0][1]
    assert found[1][1] == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run"]
    assert_same(tmp_path / "run", single, TOLERANCE, num_epochs=2)


@pytest.mark.long
@pytest.mark.parametrize("num", [2, 4])
def test_workers_evaluate_like_one(num, whole):
    """The run of one device: 359 test images, of which 4 times 80 fill batches."""
    flags = ["--num_importance_samples=200", "--batch_size=80"]
    alone = command("evaluate", "--run_dir=whole", *flags, cwd=whole.parent, env=environment())
    assert alone.returncode == 0, alone.stderr
    theirs = RunFolder(whole).read_metrics()
    RunFolder(whole).metrics_file.unlink()
    found = end(start_workers(num, whole, *flags, name="evaluate"))
    assert [code for code, _, _ in found] == [0] * num, found
    assert [output for _, output, _ in found[1:]] == [""] * (num - 1)
    ours = RunFolder(whole).read_metrics()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6, abs=1e-6)), name


@pytest.mark.long
def test_workers_that_read_files_of_their_own_train_like_one_that_reads_all(tmp_path):
    prepare(tmp_path, "hundred", {"train": numbered(100)}, num_files=4)
    (tmp_path / "settings.cfg").write_text(
        SETTINGS.replace("--limit_train=320", "--stream")
        .replace("digits", "hundred")
        .replace("--structure_epochs=2", "--edges=all")
        .replace("--epochs=3", "--epochs=2")
    )
    flags = ["--flagfile=settings.cfg", f"--data_dir={tmp_path}", "--batch_size=8"]
    done = command("train", *flags, "--run_dir=whole", cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    found = end(start_workers(2, tmp_path / "run", *flags))
    assert [code for code, _, _ in found] == [0, 0], found
    assert_same(tmp_path / "run", tmp_path / "whole", TOLERANCE, num_epochs=2)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_others_with_a_sentence_and_all_go_on(victim, whole, tmp_path):
    workers = start_workers(2, tmp_path / "run", f"--flagfile={whole.parent / 'settings.cfg'}")
    last = tmp_path / "run" / "checkpoints" / "last.keras"
    while not last.exists() and all(worker.poll() is None for worker in workers):
        time.sleep(0.1)
    workers[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    code, _, errors = end(workers)[1 - victim]
    print(f"The other worker ended {time.monotonic() - killed:.0f} s later: {errors}")
    assert code == 2
    assert re.fullmatch(r"train: All workers must live until the end; .*\n", errors)
    assert time.monotonic() - killed < 60
    found = end(start_workers(2, tmp_path / "run", "--resume"))
    assert [code for code, _, _ in found] == [0, 0], found
    assert_same(tmp_path / "run", whole, TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("alone", [0, 1])
def test_a_worker_that_never_appears_is_one_sentence(alone, tmp_path):
    workers = start_workers(2, tmp_path / "run")
    workers[1 - alone].kill()
    began = time.monotonic()
    code, _, errors = end(workers)[alone]
    print(f"After {time.monotonic() - began:.0f} s: {errors}")
    assert code == 2
    assert re.fullmatch(r"train: All workers of the cluster must start within 120 seconds\. .*\n", errors)
    assert time.monotonic() - began < 200
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("cluster", "flags", "sentence"),
    [
        (None, ["--run_dir=run"], "--distribute=multi_worker needs TF_CONFIG, or to be started by srun."),
        (None, [], "--run_dir must be given."),
        ("", ["--run_dir=run"], "TF_CONFIG must be like "),
        ("{", ["--run_dir=run"], "TF_CONFIG must be like "),
        ("[]", ["--run_dir=run"], "TF_CONFIG must be like "),
        ("{}", ["--run_dir=run"], "TF_CONFIG must be like "),
        (
            '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
            ["--run_dir=run"],
            "TF_CONFIG must be like ",
        ),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
            ["--run_dir=run"],
            "TF_CONFIG must name workers only",
        ),
        ('{"cluster": {"worker": ["a:1"]}}', ["--run_dir=run"], "TF_CONFIG must be like "),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}',
            ["--run_dir=run"],
            "TF_CONFIG must be like ",
        ),
        (
            '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            ["--run_dir=run"],
            "TF_CONFIG must name workers only",
        ),
        (None, ["--run_dir=run", "--on_nonfinite=skip"], "--on_nonfinite=skip needs --distribute=none."),
    ],
)
def test_a_cluster_that_is_not_named_rightly_is_one_sentence(cluster, flags, sentence, tmp_path):
    (tmp_path / "place").mkdir()
    named = {} if cluster is None else {"TF_CONFIG": cluster}
    said = refusal(["train", "--distribute=multi_worker", *flags], tmp_path / "place", tmp_path, named)
    assert said.startswith(f"train: {sentence}")


def test_a_signal_ends_the_waiting_for_workers(tmp_path):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(3)]
    cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 0}}
    line = [sys.executable, "-m", "tf_ldiaf.train", "--distribute=multi_worker", "--run_dir=run"]
    env = environment() | {"TF_CONFIG": json.dumps(cluster)}
    with socket.create_server(("127.0.0.1", int(hosts[1].rpartition(":")[2]))) as second:
        waiting = subprocess.Popen(line, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        second.accept()[0].close()  # now it waits for the third
        waiting.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = waiting.communicate(timeout=100)
    assert (waiting.returncode, errors) == (143, "\ntrain: terminated.\n")
    assert time.monotonic() - began < 60  # of 120
    assert not os.listdir(tmp_path)


def test_too_little_memory_is_one_sentence():
    too_little = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor\nof a shape")
    with (
        pytest.raises(
            ConfigError, match=r"must fit into memory; a smaller `batch_size`.*\(OOM when allocating a tensor\)\.$"
        ),
        strategy.one_voice(tf.distribute.get_strategy()),
    ):
        raise too_little
