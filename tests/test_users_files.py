"""What lies where a command works: the user's own files are left alone, and what is found is what was meant."""

import codecs
import datetime
import errno
import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image
from test_bad_input import FORKS, refusal, run_here
from test_cli import REPO, SMALL

from tf_ldiaf import Config, data
from tf_ldiaf.data.splits import set_named
from tf_ldiaf.errors import ConfigError, DataError
from tf_ldiaf.results import run_folder
from tf_ldiaf.results.run_folder import RunFolder

X = np.random.default_rng(0).integers(0, 2, (64, 4, 4)).astype("uint8")
TRAIN = ["train", *SMALL.replace("# a comment", "").replace("--limit_train=64", "").split()]


def run(line, cwd, output):
    """What a command prints that succeeds."""
    process = FORKS.Process(target=run_here, args=(cwd, line, output))
    process.start()
    process.join()
    assert process.exitcode == 0, (output / "err").read_text()
    return (output / "out").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, a run of them, and its SavedModel."""
    place, output = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("output")
    np.savez(place / "data.npz", x_train=X, x_val=X[:9], x_test=X[:20])
    said = run([*TRAIN, "--dataset=data.npz", "--run_dir=my run"], place, output)
    assert "Images of data.npz: 64 to train and 9 to validate with; 4 x 4 pixels" in said
    assert "--run_dir='my run'" in said
    found = RunFolder(place / "my run").read_info()
    assert [found[f"{split}_checksum"] for split in ("train", "valid")] == [zlib.crc32(X), zlib.crc32(X[:9])]
    run(["export", "--run_dir=my run", "--out=saved"], place, output)
    return place


@pytest.fixture
def copy(trained, place):
    """A copy of it to change."""
    shutil.copytree(trained, place, dirs_exist_ok=True)
    return place


# Files of the user


def picture(file):
    Image.fromarray(X[0] * 255).save(file)


def text(file):
    file.write_text("precious, see python -m tf_ldiaf.train")


@pytest.mark.parametrize(
    ("name", "write", "line"),
    [
        ("mine.npz", lambda file: np.savez(file, x=X), "sample --saved_model=saved --reconstruct=mine.npz --out=mine.png"),  # noqa: E501
        ("mine.npz", lambda file: np.savez(file, x=X), "sample --saved_model=saved --out=mine.png"),
        ("mine.png", picture, "sample --saved_model=saved --out=mine.png"),
        ("mine.png", picture, "sample --saved_model=saved --graph=mine.png"),
        ("mine.dot", text, "sample --saved_model=saved --graph=mine.dot"),
        ("mine.json", text, "sample --saved_model=saved --graph=mine.json"),
        ("mine.png", lambda file: file.mkdir(), "sample --saved_model=saved --out=mine.png"),
        ("mine", lambda file: (file.mkdir(), text(file / "a")), "export --run_dir=run --out=mine --overwrite"),
        ("saved_model.pb", text, "export --run_dir=run --out=. --overwrite"),
        ("mine", text, "export --run_dir=run --out=mine --overwrite"),
        ("run/notes.txt", text, "train --run_dir=run --overwrite"),
        ("run/mine.png", picture, "train --run_dir=run --overwrite"),
        ("run/checkpoints/mine.keras", text, "train --run_dir=run --overwrite"),
        ("run/part-00000.csv", text, "train --run_dir=run --overwrite"),
        ("saved/mine.txt", text, "export --run_dir=run --out=saved --overwrite"),
        ("run/thesis", lambda file: (file.mkdir(), text(file / "a")), "train --run_dir=run --overwrite"),
    ],
)  # fmt: skip
def test_no_command_writes_over_what_it_did_not_make(name, write, line, copy, output):
    (copy / "my run").rename(copy / "run")
    write(copy / name)
    refusal(line.split(), copy, output)


def test_what_commands_made_they_write_over(copy, output):
    sample, export = "sample --saved_model=saved --out=a.png --num=4 --graph=g.{}", "export --run_dir=run --out=saved"
    for line in [*2 * [*map(sample.format, ("png", "dot", "json"))], f"{export} --overwrite"]:
        if (copy / "my run").exists():
            (copy / "my run").rename(copy / "run")
        run(line.split(), copy, output)
    shutil.move(copy / "saved", copy / "run" / "saved")
    shutil.move(copy / "a.png", copy / "run" / "a.png")
    run([*TRAIN, "--dataset=data.npz", "--run_dir=run", "--overwrite"], copy, output)
    assert not (copy / "run" / "saved").exists()


def test_a_reconstruction_has_not_the_name_of_its_originals(copy, output):
    run(["sample", "--saved_model=saved", "--out=a.png", "--num=4"], copy, output)
    assert "another name" in refusal(
        ["sample", "--saved_model=saved", "--reconstruct=a.npz", "--out=a.png"], copy, output
    )


def test_an_export_leaves_its_neighbours_alone(copy, output):
    for name in ("new.part", "new.old"):
        (copy / name).mkdir()
        text(copy / name / "mine")
    run(["export", "--run_dir=my run", "--out=new"], copy, output)
    assert {file.name for file in copy.iterdir()} == {"data.npz", "my run", "saved", "new", "new.part", "new.old"}
    assert (copy / "new.part" / "mine").read_text() == (copy / "new.old" / "mine").read_text() != ""


# Which images


NAMES = [
    ("train", "val", "test"), ("training", "validation", "testing"), ("Train", "Valid", "Test"),
    ("x_train", "x_dev", "x_test"), ("X_train", "X_val", "X_test"), ("train_images", "val_images", "test_images"),
    ("xTrain", "xVal", "xTest"), ("images-train", "images-dev", "images-test"), ("TRAIN", "VAL", "TEST"),
    ("trainX", "valX", "testX"),
]  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", ["npz", "npy", "folders"])
def test_every_usual_name_of_a_set_is_known(names, kind, tmp_path):
    sets = dict(zip(names, (X, X[:9], X[:20]), strict=True))
    if kind == "npz":
        np.savez(tmp_path / "data.npz", **sets, y_train=np.arange(64), labels_test=np.arange(20), val_target=X[:9])
        dataset = tmp_path / "data.npz"
    elif kind == "npy":
        dataset = tmp_path / f"{names[0]}.npy"
        for name, images in sets.items():
            np.save(tmp_path / f"{name}.npy", images)
    else:
        dataset = tmp_path
        for name, images in sets.items():
            (tmp_path / name).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image * 255).save(tmp_path / name / f"{i:02}.png")
    config = Config(dataset=dataset)
    images = data.load_training(config, seed=0)
    np.testing.assert_array_equal(images.train, X)
    np.testing.assert_array_equal(images.valid, X[:9])
    np.testing.assert_array_equal(data.load_test(config), X[:20])


@pytest.mark.parametrize(
    "name", ["cat", "extra", "trained", "latest", "y_train", "train_labels", "train_test", "x", ""]
)
def test_other_names_are_of_no_set(name):
    assert set_named(name) is None


@pytest.mark.parametrize("others", [["holdout"], ["train2", "training"], ["Training"]])
def test_a_folder_that_no_set_is_known_by_is_refused(others, tmp_path):
    for name in ("train", "test", *others):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "a.png")
    with pytest.raises(DataError, match=others[0]):
        data.load_training(Config(dataset=tmp_path), seed=0)


def test_a_picture_beside_the_folders_of_sets_is_refused(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "a.png")
    picture(tmp_path / "b.PNG")
    with pytest.raises(DataError, match=r"pictures in test and train only,.* Received: .*, which has b\.PNG"):
        data.load_training(Config(dataset=tmp_path), seed=0)


def test_a_name_that_means_two_sets_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train=X, train_val=X, test=X)
    with pytest.raises(DataError, match=r"names of one set each\. Received: .*, which has train_val\."):
        data.load_training(Config(dataset=tmp_path / "a.npz"), seed=0)


@pytest.mark.parametrize(
    ("train", "words"),
    [(np.zeros((9, 4, 4)), "all black"), (np.full((9, 4, 4), 60, "uint8"), "all black"), (X + 200, "all white")],
)
def test_images_that_are_all_of_one_colour_are_refused(train, words, tmp_path):
    np.savez(tmp_path / "a.npz", train=train)
    with pytest.raises(DataError, match=f"something in them. Received: .*{words} with `binarization=threshold`"):
        data.load_training(Config(dataset=tmp_path / "a.npz"), seed=0)


def test_folders_of_classes_are_one_set(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(X[i] * 255).save(tmp_path / name / f"{i}.png")
    images = data.load_training(Config(dataset=tmp_path), seed=0)
    assert len(images.train) + len(images.valid) + len(data.load_test(Config(dataset=tmp_path))) == 40


def test_test_images_that_were_replaced_are_not_evaluated(copy, output):
    run(["evaluate", "--run_dir=my run"], copy, output)
    np.savez(copy / "data.npz", x_train=X, x_val=X[:9], x_test=X[1:21])
    assert "others now" in refusal(["evaluate", "--run_dir=my run"], copy, output)


def test_images_that_were_moved_are_found_where_the_user_says(copy, output):
    (copy / "data.npz").rename(copy / "moved.npz")
    refusal(["evaluate", "--run_dir=my run"], copy, output)
    line = ["evaluate", "--run_dir=my run", "--dataset=moved.npz"]
    assert "Images of moved.npz: 20 to test with; 4 x 4 pixels" in run(line, copy, output)
    run(["train", "--resume", "--run_dir=my run", "--dataset=moved.npz", "--epochs=2"], copy, output)
    assert len(RunFolder(copy / "my run").read_history()) == 2
    run(["evaluate", "--run_dir=my run"], copy, output)  # the run knows now
    np.savez(copy / "other.npz", x_train=1 - X, x_val=X[:9], x_test=X[:20])
    assert "others now" in refusal(["train", "--resume", "--run_dir=my run", "--dataset=other.npz"], copy, output)


def test_what_a_run_was_told_it_may_be_told_again():
    config = Config(edges="5-1,4-2", node_units=[8])
    again = {"edges": "5-1,4-2", "structure_epochs": 20, "node_units": [8]}
    assert config.changed(again) == config


def test_a_run_is_made_longer_and_not_shorter():
    config = Config(epochs=200)
    assert config.changed({"epochs": 300}).epochs == 300
    with pytest.raises(ConfigError, match=r"`epochs` must be at least 200.*Received: 100"):
        config.changed({"epochs": 100})
    with pytest.raises(ConfigError, match=r"`batch_size` must be 128 as in the run.*more `epochs`.*Received: 64"):
        config.changed({"batch_size": 64})


def test_one_test_image_has_no_standard_error(place, output):
    np.savez(place / "data.npz", train=X, test=X[:1])
    run([*TRAIN, "--dataset=data.npz", "--run_dir=run"], place, output)
    assert "+- unknown" in run(["evaluate", "--run_dir=run"], place, output)
    metrics = json.loads((place / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["test_elbo_stderr"] is None
    run(["export", "--run_dir=run", "--out=saved"], place, output)


# Paths and flags


def test_the_worth_of_edges_needs_two_test_images(place, output):
    np.savez(place / "one.npz", x_train=X, x_test=X[:1])
    run([*TRAIN, "--dataset=one.npz", "--run_dir=run"], place, output)
    said = refusal(["evaluate", "--run_dir=run", "--edge_worth"], place, output)
    assert "--edge_worth needs two test images or more, for an error. Received: one." in said


def test_a_tilde_is_the_user_s_home_in_every_path(copy, output, monkeypatch):
    monkeypatch.setenv("HOME", str(copy))
    assert RunFolder("~/my run").path == copy / "my run"
    config = RunFolder("~/my run").read_config()
    assert len(data.load_test(Config(dataset="~/data.npz"))) == 20
    assert config.dataset == "data.npz"
    from tf_ldiaf.results import sampling, saved_model

    sampling.write_images("~/saved", "~/a.png", 2, 0, "~/data.npz")
    sampling.write_graph("~/saved", "~/g.dot")
    saved_model.export(RunFolder("~/my run"), "~/again")
    assert {"a.png", "a.npz", "g.dot", "again"} <= {file.name for file in copy.iterdir()}


@pytest.mark.parametrize(
    "line",
    [
        "train --dataset=", "train --run_dir=", "train --data_dir=",
        "evaluate --run_dir=x --dataset=", "export --run_dir=x --out=",
        "sample --saved_model=x --out=", "sample --saved_model=x --out=a.png --reconstruct=",
        "sample --saved_model=x --graph=",
    ],
)  # fmt: skip
def test_an_empty_variable_is_not_taken_for_nothing_said(line, place, output):
    assert "must not be empty" in refusal(line.split(), place, output)


@pytest.mark.parametrize("dataset", ["", " ", "\t"])
def test_no_data_set_is_not_the_working_directory(dataset):
    with pytest.raises(ConfigError, match="`dataset` must be a name or a path"):
        Config(dataset=dataset)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_flagfile_may_come_from_windows(encoding, place, output):
    content = "--method=vae\r\n--num_nodes=2\r\n".encode(encoding)
    mark = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else b""
    (place / "it.cfg").write_bytes(mark + content)
    for line in (["--flagfile=it.cfg"], ["--flagfile", "it.cfg"]):
        assert "--num_nodes is always 1 with --method=vae" in refusal(["train", *line], place, output)


def twice(cwd, lines, output):
    os.chdir(cwd)
    for name, *arguments in lines:
        sys.argv = [name, *arguments]
        runpy.run_module(f"tf_ldiaf.{name}", run_name="__main__")
    (output / "done").touch()


def test_a_notebook_runs_several_commands_and_one_twice(copy, output):
    sample = ["sample", "--saved_model=saved", "--graph=g.png"]
    lines = [sample, ["evaluate", "--run_dir=my run", "--seed=1"], sample, ["evaluate", "--run_dir=my run"]]
    process = FORKS.Process(target=twice, args=(copy, lines, output))
    process.start()
    process.join()
    assert (output / "done").exists()
    assert RunFolder(copy / "my run").read_metrics()["seed"] == 0  # not what the first one was given


def test_the_package_as_a_command_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "tf_ldiaf"], cwd=REPO, capture_output=True, text=True)
    assert [f"python -m tf_ldiaf.{name} " in done.stdout for name in ("train", "evaluate", "export", "sample")] == 4 * [
        True
    ]


def test_numbers_of_numpy_are_settings():
    config = Config(learning_rate=np.float64(1e-3), epochs=np.int64(3), node_units=np.array([4, 5]), stream=np.bool_(0))
    assert config == Config(learning_rate=1e-3, epochs=3, node_units=(4, 5))
    assert Config(encoder_units=[np.int32(4), 5]) == Config(encoder_units=(4, 5))
    with pytest.raises(ConfigError, match="`epochs` must be a whole number"):
        Config(epochs=np.float64(1.5))


# Folders and file systems


def test_runs_that_begin_in_one_second_have_folders_of_their_own(place, monkeypatch):
    monkeypatch.chdir(place)
    now = types.SimpleNamespace(datetime=types.SimpleNamespace(now=lambda: datetime.datetime(2020, 1, 2, 3, 4, 5)))
    monkeypatch.setattr(run_folder, "datetime", now)
    folders = [RunFolder.of_its_own(Config(dataset="a.npz")) for _ in range(3)]
    assert [folder.path.name for folder in folders] == [f"ldiaf-a-20200102-030405{end}" for end in ("", "-2", "-3")]
    for folder in folders:
        with folder.locked():
            pass
    assert not list(place.glob("runs/*"))  # nothing was trained


def test_a_file_system_without_locks_is_trained_on_with_a_warning(place, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunFolder(place / "run").locked():
        pass
    assert "Warning: nothing keeps a second process from training" in capsys.readouterr().out


def test_a_run_that_cannot_be_written_is_evaluated_and_only_printed(copy, monkeypatch, capsys):
    from tf_ldiaf import cli, evaluate

    monkeypatch.chdir(copy)
    monkeypatch.setattr(RunFolder, "can_be_written", False)
    monkeypatch.setattr(sys, "argv", ["evaluate", "--run_dir=my run"])
    cli.run(evaluate.main, "", evaluate.FLAGS)
    said = capsys.readouterr().out
    assert said.index("cannot be written") < said.index("to test with") < said.index("| ELBO")
    assert not (copy / "my run" / "metrics.json").exists()


def test_one_device_mirrored_and_a_cluster_of_one_are_one_device(place, output, monkeypatch):
    from tf_ldiaf.execution import strategy

    cluster = {"cluster": {"worker": ["127.0.0.1:9"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    for name in ("mirrored", "multi_worker"):
        assert strategy.make_strategy(name).num_replicas_in_sync == 1
        assert type(strategy.make_strategy(name)) is type(strategy.make_strategy("none"))


def test_a_batch_of_one_image_trains_without_xla(place, output):
    line = ["train", "--edges=all", "--epochs=1", "--batch_size=1", "--limit_train=6", "--nojit_compile"]
    run([*line, "--encoder_units=8", "--run_dir=run"], place, output)


def test_a_data_dir_that_is_too_deep_is_left_as_it_was(place, output):
    from test_records import prepare

    folder = place / "prepared"
    folder.mkdir()
    prepare(folder, "hundred", {"train": X}, num_files=1)
    for deep in ("hundred", "hundred/1.0.0"):
        said = refusal(["train", "--dataset=hundred", f"--data_dir=prepared/{deep}"], place, output)
        assert "--data_dir must be the folder above hundred, prepared." in said
