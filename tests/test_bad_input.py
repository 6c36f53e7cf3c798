"""Bad input, broadly: whatever a command is given, one sentence, code 2, and nothing is written or lost."""

import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import runpy
import shutil
import sys
import zipfile

import numpy as np
import pytest
from test_cli import SMALL, contents

from tf_ldiaf import Config

# A process that has imported TensorFlow is forked for each case: a case takes a tenth of a second, not five.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["PIL.Image", "tf_ldiaf.results.sampling", "tf_ldiaf.training.phases"])


def run_here(cwd, line, output, environ=()):
    """In a process of its own: a command with its output in two files."""
    os.chdir(cwd)
    os.environ.update(environ)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(i), "wb"), line_buffering=True) for i in (1, 2))
    name, *arguments = line
    sys.argv = [name, *arguments]
    runpy.run_module(f"tf_ldiaf.{name}", run_name="__main__")


def refusal(line, cwd, output, environ=()):
    """The sentence with which a command refuses, after all that is asked of a refusal was asserted."""
    before = contents(cwd)
    process = FORKS.Process(target=run_here, args=(cwd, line, output, environ))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("it went on")
    errors = (output / "err").read_text()
    assert process.exitcode == 2, errors
    assert "Traceback" not in errors
    assert errors.count("\n") == 1, errors
    assert errors.startswith(f"{line[0]}: ")
    assert "eceived" in errors or "flag" in errors, errors
    assert len(errors) < 1000
    assert contents(cwd) == before
    return errors


def succeed(line, cwd, output):
    process = FORKS.Process(target=run_here, args=(cwd, line.split(), output))
    process.start()
    process.join()
    assert process.exitcode == 0, (output / "err").read_text()


# Flags


def wrong_values(field):
    """Values that a flag cannot have, from what its setting says of itself."""
    kind = field.type
    if field.metadata["choices"]:
        return ["", "none-of-them", field.metadata["choices"][0].upper()]
    if kind is bool:
        return ["maybe", "2"]
    if kind is str:
        return []
    wrong = ["x", "1e", "0x", "1,,2", "nan", "inf", "-1"]
    wrong += [""] * (field.default != ())  # where none is a list too
    return wrong if kind is float else [*wrong, "1.5", "9" * 40]


# One flag of each type is given everything that is wrong, the others what their own bounds and choices refuse.
ONE_OF_A_TYPE = {f.type: f.name for f in reversed(dataclasses.fields(Config))}.values()
FLAGS = [
    (f.name, value)
    for f in dataclasses.fields(Config)
    for value in wrong_values(f)
    if f.name in ONE_OF_A_TYPE or f.metadata["choices"] or value in ("x", "-1", "nan", "2")
]


@pytest.mark.parametrize(("name", "value"), FLAGS)
def test_flags(name, value, tmp_path_factory):
    assert name in refusal(["train", f"--{name}={value}"], *folders(tmp_path_factory))


def folders(tmp_path_factory):
    """An empty place to work in, and one for the output."""
    return tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("output")


@pytest.mark.parametrize(
    "line",
    [
        "train --flagfile", "train --flagfile=", "train --=3", "train -", "train --seed", "train ---seed=1",
        "train --seed=1 extra", "train --seed 1 2", "train --noseed", "train --method=vae --num_nodes=2",
        "train --method=vae --edges=all", "train --method=fc_vae --edges=none", "train --edges=1-2",
        "train --edges=6-1", "train --edges=2-1,2-1", "train --edges=2-1;3-1", "train --edges=every",
        "train --edges=5-1,",
        "train --edges=²-1", "train --structure_epochs=0", "train --num_nodes=1",
        "train --optimizer=adam --weight_decay=0.1",
        "train --method=graph_vae --context_dim=3", "train --edges=all --edge_cost=1", "train --helpme",
        "train --dataset=", "train --dataset=missing.npz", "train --dataset=./missing", "train --dataset=~nobody/x",
        "train --dataset=\0", "train --run_dir=a\0b", "train --run_dir=/proc/run", "train --run_dir=/dev/null",
        "train --run_dir=/dev/null/run", "train --resume --run_dir=\0", "train --resume --run_dir=/dev/null",
        "train --resume --run_dir=.", "train --resume --run_dir=/", "train --overwrite --run_dir=/",
        "evaluate --run_dir=", "evaluate --run_dir=missing", "evaluate --run_dir=/dev/null", "evaluate --run_dir=\0",
        "evaluate --run_dir=. --batch_size=0", "evaluate --run_dir=. --seed=-1", "evaluate run",
        f"evaluate --run_dir=. --num_importance_samples={10**12}", "export --run_dir=", "export --run_dir=missing",
        "export --run_dir=\0", "sample", "sample --out=a.png", "sample --saved_model= --out=a.png",
        "sample --saved_model=missing --out=a.png", "sample --saved_model=/dev/null --out=a.png",
        "sample --saved_model=\0 --out=a.png", "sample --saved_model=. --num=0 --out=a.png",
        "sample --saved_model=. --num=100000 --out=a.png", "sample --saved_model=. --seed=-1 --out=a.png",
    ],
)  # fmt: skip
def test_lines(line, tmp_path_factory):
    refusal(line.split(" "), *folders(tmp_path_factory))


# Flagfiles


@pytest.mark.parametrize(
    "content",
    [
        b"--epoch=3\n", b"--epochs\n", b"--epochs=three\n", b"--epochs = 3\n", b"epochs=3\n", b"hello\n",
        b"--epochs=3,\n",         b"\xff\xfe-\0-\0\n", b"\xef\xbb\xbf--epoch=3\n", b"--method=vae\0\n", b"\0\0\0",
        b"--flagfile=other.cfg\n",
        b"--\n", b"--=\n", b"x" * 100_000, b"--epochs=" + b"9" * 100_000,
        b"{\"epochs\": 3}\n", b"--flagfile=a\0b\n",
    ],
)  # fmt: skip
def test_flagfiles(content, tmp_path_factory):
    place, output = folders(tmp_path_factory)
    (place / "it.cfg").write_bytes(content)
    # That sentence would mean that the file was taken as it is.
    assert "--epochs must be" not in refusal(["train", "--flagfile=it.cfg", "--epochs=0"], place, output)


# Run folders


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a trained run, `run`, and its SavedModel, `saved`."""
    place, output = folders(tmp_path_factory)
    (place / "small.cfg").write_text(SMALL)
    for line in ("train --flagfile=small.cfg --run_dir=run", "export --run_dir=run --out=saved"):
        succeed(line, place, output)
    return place


@pytest.fixture
def place(runs, tmp_path_factory):
    """A copy of `runs`, to be damaged."""
    copy = tmp_path_factory.mktemp("copy") / "place"
    shutil.copytree(runs, copy)
    return copy


def settings(**changes):
    """A config.json with changed settings."""

    def change(text):
        info = json.loads(text)
        info["settings"] |= changes
        return json.dumps(info)

    return change


NOT_JSON = ["", " ", "{", "hello", "\0", "{'a': 1}", "[" * 100_000, "NaN", '{"versions": {"tf_ldiaf": "0"}}']
NOT_JSON += ['"text"', "3", "null", "[]", "{}", '{"versions": null}', '{"versions": {"tf_ldiaf": 0}, "settings": []}']


CHANGES = [
    *(lambda text, content=content: content for content in NOT_JSON),
    settings(epochs="7"), settings(epochs=7.5), settings(epochs=True), settings(epochs=None), settings(epochs=-1),
    settings(epochs=10**400), settings(learning_rate=10**400),
    settings(epochs=[7]), settings(epochs={}), settings(learning_rate="fast"),
    settings(learning_rate=1e999), settings(learning_rate=None), settings(method=None), settings(method="ldaif"),
    settings(method=3), settings(dataset=3), settings(dataset=None), settings(encoder_units=8),
    settings(encoder_units=[]), settings(encoder_units=[8, "8"]), settings(encoder_units=[8.0]),
    settings(encoder_units=[True]), settings(encoder_units=["8"]), settings(edges=5), settings(edges="3-1"),
    settings(jit_compile="yes"), settings(jit_compile=1), settings(binarization=""), settings(num_nodes=1),
    settings(beta=0.3), settings(**{"": 1}), settings(**{"__class__": "x"}), settings(num_flow_steps=2),
    settings(structure_epochs=4),
    lambda text: text[:-9], lambda text: text.replace('"settings"', '"setting"'), lambda text: text.encode("utf-16"),
    lambda text: b"\xff" + text.encode(),
]  # fmt: skip
LINES = ["train --run_dir=run --resume", "evaluate --run_dir=run", "export --run_dir=run"]


@pytest.mark.parametrize(("change", "line"), zip(CHANGES, itertools.cycle(LINES), strict=False))
def test_config_json(change, line, place, tmp_path):
    file = place / "run" / "config.json"
    content = change(file.read_text())
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refusal(line.split(), place, tmp_path)


def nothing(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def text(file):
    file.write_text("hello\n")


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def folder(file):
    file.unlink()
    file.mkdir()


def link(file):
    file.unlink()
    file.symlink_to(file.name)


def other_archive(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped.txt", "x")
        archive.writestr("metadata.json", "{}")


def with_member(name, content):
    """An archive of Keras in which a member is another."""

    def damage(file):
        with zipfile.ZipFile(file) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        assert name in members
        with zipfile.ZipFile(file, "w") as archive:
            for member, old in members.items():
                archive.writestr(member, content if member == name else old)

    return damage


def of_class(module, class_name, **config):
    """An archive of Keras that asks for an object of another class."""
    return with_member("config.json", json.dumps({"module": module, "class_name": class_name, "config": config}))


LAMBDA = {"module": "builtins", "class_name": "function", "config": "x", "registered_name": "function"}
DAMAGE = [nothing, empty, text, half, byte, folder, link, other_archive]
DAMAGE += [with_member("config.json", content) for content in ("", "{", "[]", "{}", '{"class_name": "LDIAF"}')]
DAMAGE += [with_member("model.weights.h5", b""), with_member("model.weights.h5", b"\x89HDF\r\n\x1a\n")]
DAMAGE += [
    of_class("os", "system"), of_class("subprocess", "Popen", args=["touch", "escaped"]), of_class("builtins",
    "eval"),
    of_class("keras", "Sequential"), of_class("keras.layers", "Lambda", function=LAMBDA),
    of_class("tf_ldiaf.model.ldiaf", "LDIAF", config={"num_nodes": "7"}), of_class("tf_ldiaf.cli", "run"),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_checkpoints(damage, place, tmp_path):
    checkpoints = place / "run" / "checkpoints"
    damage(checkpoints / "best.keras")
    for line in LINES[1:]:
        assert "best.keras" in refusal(line.split(), place, tmp_path) or damage in (nothing, folder, link)
    damage(checkpoints / "last.keras")
    (checkpoints / "previous.keras").unlink(missing_ok=True)
    if damage not in (nothing, link):
        assert "last.keras" in refusal(LINES[0].split(), place, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("history.csv", "a\n1\n"), ("history.csv", "phase,elbo\nfinal,1\n"), ("history.csv", "a\n" + "1" * 200_000),
     ("gates.json", '{"epochs": [3]}'), ("gates.json", '{"epochs": [{"probs": 3}]}'),
     ("gates.json", '{"epochs": [{"probs": [[0]]}]}'), ("gates.json", '{"epochs": [{}]}'), ("gates.json", "[" * 10**5),
     ("metrics.json", "{}"), ("metrics.json", "[]"), ("metrics.json", "3"), ("metrics.json", "{")],
)  # fmt: skip
def test_records_of_another_shape(name, content, place, tmp_path):
    (place / "run" / name).write_text(content)
    assert name in refusal(LINES[2].split(), place, tmp_path) or content.startswith(("a\n1\n", "phase"))


@pytest.mark.parametrize("damage", [empty, text, half, byte, folder, link])
@pytest.mark.parametrize("name", ["history.csv", "gates.json"])
def test_histories(name, damage, place, tmp_path):
    damage(place / "run" / name)
    refusal(LINES[2].split(), place, tmp_path)


def test_a_run_goes_on_with_the_images_it_began_with(place, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype("uint8")
    np.savez(place / "data.npz", train=images)
    succeed("train --flagfile=small.cfg --dataset=data.npz --run_dir=r", place, tmp_path)
    images[7, 1, 1] ^= 255
    np.savez(place / "data.npz", train=images)
    words = "must be resumed with the images that it began with. Received: data.npz"
    assert words in refusal(["train", "--resume", "--run_dir=r"], place, tmp_path)


# SavedModels


@pytest.mark.parametrize("damage", [nothing, empty, text, half, byte, folder, link])
@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", "graph.json"]
)
def test_saved_models(name, damage, place, tmp_path):
    damage(place / "saved" / name)
    output = "--graph=a.dot" if name == "graph.json" else "--out=a.png"
    refusal(["sample", "--saved_model=saved", output], place, tmp_path)


TWO_NODES = '{"nodes": [{"id": "a"}, {"id": "b"}], "edges": [{"source": "a", "target": "b"%s}]}'


@pytest.mark.parametrize(
    "graph",
    ["[]", "{}", "3", "[" * 100_000, '{"nodes": 3}', '{"nodes": [], "edges": [1]}', TWO_NODES % "",
     TWO_NODES % ', "weight": "x"', TWO_NODES % ', "weight": null'],
)  # fmt: skip
def test_graphs(graph, place, tmp_path):
    (place / "saved" / "graph.json").write_text(graph)
    refusal(["sample", "--saved_model=saved", "--graph=a.dot"], place, tmp_path)


@pytest.mark.parametrize(
    "line",
    ["sample --saved_model=saved --out=a.jpg", "sample --saved_model=saved --out=/proc/a.png",
     "sample --saved_model=saved --out=no/a.png", "sample --saved_model=saved --graph=/proc/a.dot",
     "sample --saved_model=saved --graph=a.svg", "sample --saved_model=run --out=a.png",
     "sample --saved_model=saved --out=run.png --reconstruct=run", "export --run_dir=run --out=run",
     "export --run_dir=run --out=run --overwrite", "export --run_dir=run --out=saved",
     "export --run_dir=run --out=/proc/a", "export --run_dir=run --out=small.cfg --overwrite",
     "export --run_dir=run --out=a\0b", "export --run_dir=run --out=."],
)  # fmt: skip
def test_places(line, place, tmp_path):
    refusal(line.split(" "), place, tmp_path)
