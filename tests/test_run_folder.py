"""The run folder: which folders are accepted, and that numbers come back as they were written."""

import contextlib
import json
import os
import pathlib

import numpy as np
import pytest

from tf_ldiaf import Config, data
from tf_ldiaf.errors import FileError
from tf_ldiaf.results import checkpoints, files, pictures
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.training import phases


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.create(Config(method="vae", seed=7))
    return folder


def test_new_and_empty_folders_are_accepted(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "new/deep", "empty"):
        folder = RunFolder(tmp_path / name)
        folder.check_new(overwrite=False)
        folder.create(Config())
        assert folder.holds_run


def test_a_folder_with_a_run_is_refused_unless_overwritten(folder):
    with pytest.raises(FileError, match="holds a run; `resume` continues it, `overwrite` replaces it"):
        folder.check_new(overwrite=False)
    folder.write_history([{"phase": "final", "epoch": 1}])
    folder.check_new(overwrite=True)
    folder.create(Config(seed=8))
    assert folder.read_config().seed == 8
    assert folder.read_history() == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("precious")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileError, match="holds other things"):
            RunFolder(path).check_new(overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_config_json_of_another_program_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 768}')
    with pytest.raises(FileError, match="holds other things"):
        RunFolder(tmp_path).check_new(overwrite=True)


def test_what_a_killed_create_leaves_counts_as_an_empty_folder(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".tf_ldiaf.lock").write_text("")
    (tmp_path / "part-config.json").write_text('{"sett')
    folder.check_new(overwrite=False)
    folder.create(Config(seed=3))
    assert folder.read_config().seed == 3


@pytest.mark.parametrize("name", ["part-2.tex", "lock", "part-history.csv"])
def test_other_files_with_names_like_ours_are_never_touched(tmp_path, name):
    (tmp_path / name).write_text("precious")
    folder = RunFolder(tmp_path)
    with pytest.raises(FileError, match="holds other things"):
        folder.check_new(overwrite=True)
    with folder.locked():
        pass
    assert (tmp_path / name).read_text() == "precious"


def test_a_lock_leaves_no_empty_folder(tmp_path):
    with RunFolder(tmp_path / "new").locked():
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()


def test_a_picture_of_the_user_s_under_a_report_s_name_is_not_replaced(folder):
    folder.check_pictures()
    folder.samples_file.write_bytes(pictures.as_png(np.zeros((2, 2), "uint8")))
    folder.check_pictures()
    folder.check_new(overwrite=True)
    folder.graph_file.write_bytes(b"mine")
    with pytest.raises(FileError, match=r"must leave the name graph\.png to the report"):
        folder.check_pictures()
    with pytest.raises(FileError, match=r"which holds graph\.png too"):
        folder.check_new(overwrite=True)


def test_a_killed_overwrite_leaves_a_run_until_the_end(folder, monkeypatch):
    """The file by which a run is known goes last."""
    folder.write_history([{"phase": "final", "epoch": 1}])
    folder.write_gates([], None)
    remove, removed = pathlib.Path.unlink, []

    def recorded(self, **kwargs):
        removed.append(self.name)
        remove(self, **kwargs)

    monkeypatch.setattr(pathlib.Path, "unlink", recorded)
    folder.create(Config())
    assert removed.index("config.json") > max(removed.index("history.csv"), removed.index("gates.json"))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"`run_dir` must be a folder that can be written.*file/run"):
        RunFolder(tmp_path / "file" / "run").create(Config())


def test_settings_versions_and_commit_are_kept(folder):
    assert folder.read_config() == Config(method="vae", seed=7)
    info = folder.read_info()
    assert {"python", "tf_ldiaf", "tensorflow", "keras"} <= set(info["versions"])
    assert info["versions"]["tensorflow"].startswith("2.")
    assert info["git_commit"] is None or len(info["git_commit"].removesuffix("-dirty")) == 40


def test_a_folder_without_a_run_cannot_be_read(tmp_path):
    folder = RunFolder(tmp_path)
    for read in (folder.read_config, folder.read_gates, folder.read_metrics, folder.read_info):
        with pytest.raises(FileError, match=r"must be the folder of a run.*no config\.json"):
            read()
    assert folder.read_history() == []


def test_files_that_are_missing_or_damaged(folder):
    with pytest.raises(FileError, match=r"must hold metrics\.json"):
        folder.read_metrics()
    folder.gates_file.write_text('{"epochs": [')
    with pytest.raises(FileError, match=r"gates\.json must be readable JSON"):
        folder.read_gates()
    info = folder.read_info()
    info["settings"]["learning_rat"] = 1
    folder.config_file.write_text(json.dumps(info))
    with pytest.raises(FileError, match=r"learning_rat. Did you mean learning_rate"):
        folder.read_config()


@pytest.mark.parametrize("content", ["[]", "null", '{"settings": []}', '{"settings": 3}'])
def test_config_json_of_another_shape_is_one_sentence(folder, content):
    folder.config_file.write_text(content)
    with pytest.raises(FileError):
        folder.read_config()


def test_history_comes_back_to_the_bit(folder):
    numbers = [0.1, 1 / 3, -78.123456789012345, 1e-300, 5e22, float("inf"), -0.5, 2.0, 3e8]
    rows = [
        {"phase": "structure", "epoch": 1, **{f"c{i}": x for i, x in enumerate(numbers)}},
        {"phase": "final", "epoch": 2, **{f"c{i}": -x for i, x in enumerate(numbers)}},
    ]
    folder.write_history(rows)
    assert folder.read_history() == rows
    assert folder.history_file.read_text().splitlines()[0].startswith("phase,epoch,c0,")
    folder.write_history([])
    assert folder.read_history() == []


def test_gates_come_back(folder):
    epochs = [{"epoch": 1, "probs": [[0.0, 1 / 3], [0.0, 0.0]]}]
    folder.write_gates(epochs, None)
    assert folder.read_gates() == {"epochs": epochs, "adjacency": None, "edges": []}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file.json"
    files.write_atomically(file, "old")

    def interrupted(self, content):
        with open(self, "wb") as stream:
            stream.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_bytes", interrupted)
    with pytest.raises(FileError, match="disk full"):
        files.write_atomically(file, "new")
    assert file.read_text() == "old"
    monkeypatch.undo()
    files.write_atomically(file, "new")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.json"]


def test_default_path_names_method_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = RunFolder.of_its_own(Config(method="vae", dataset="/data/cells.npz")).path
    assert path.parent == pathlib.Path("runs")
    assert path.name.startswith("vae-cells-")


@pytest.mark.parametrize("content", ["phase,epoch\nfinal,one\n", "phase,epoch\nfinal\n"])
def test_a_damaged_history_is_one_sentence(folder, content):
    folder.history_file.write_text(content)
    with pytest.raises(FileError, match=r"history.csv must be the history of a run"):
        folder.read_history()


@pytest.mark.parametrize("content", ["[]", "{}", '{"epochs": 3}'])
def test_damaged_gates_are_one_sentence(folder, content):
    folder.gates_file.write_text(content)
    with pytest.raises(FileError, match=r"gates.json must hold the gates of a run"):
        folder.read_gates()


def test_a_run_that_is_moved_while_it_is_trained_writes_nothing_in_its_old_place(tiny, tmp_path, monkeypatch):
    config, write, moved = tiny(edges="2-1", limit_train=64, epochs=4), RunFolder.write_history, tmp_path / "moved"
    folder, other = (RunFolder(tmp_path / "run") for _ in range(2))
    images = data.load_training(config, config.seed)
    with contextlib.ExitStack() as held, folder.locked():
        folder.create(config)

        def write_and_move(self, rows):
            write(self, rows)
            if len(rows) == 2:
                self.path.rename(moved)
                held.enter_context(other.locked())  # another run takes its place
                other.create(Config(seed=8))

        monkeypatch.setattr(RunFolder, "write_history", write_and_move)
        with pytest.raises(FileError, match=r"must stay where it is.* trains in it.*which was moved or removed"):
            phases.train(config, images, folder)
        assert folder.read_config().seed == 8
        assert {file.name for file in folder.path.iterdir()} == {"config.json", other.lock_file.name}
    assert len(RunFolder(moved).read_history()) == 2


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.write_history([]),
        lambda folder: folder.write_gates([]),
        lambda folder: checkpoints.write(None, None, folder),
        lambda folder: checkpoints.write_best(None, folder),
    ],
)
def test_nothing_is_written_into_the_folder_of_another_process(tmp_path, write):
    ours, theirs = (RunFolder(tmp_path / "run") for _ in range(2))
    with ours.locked():
        ours.path.rename(tmp_path / "moved")
        with pytest.raises(FileError, match="moved or removed"):
            write(ours)
        with theirs.locked():
            with pytest.raises(FileError, match="moved or removed"):
                write(ours)
            theirs.write_history([])
    assert (tmp_path / "moved").exists()


def test_a_process_whose_folder_was_moved_leaves_the_next_one_its_lock(tmp_path):
    ours, theirs = (RunFolder(tmp_path / "run") for _ in range(2))
    with contextlib.ExitStack() as held:
        with ours.locked():
            ours.path.rename(tmp_path / "moved")
            held.enter_context(theirs.locked())
        theirs.check_in_place()
        with pytest.raises(FileError, match="no other process trains"), RunFolder(tmp_path / "run").locked():
            pass


def test_a_lock_that_was_cleaned_up_ends_no_training(folder):
    with folder.locked():
        folder.lock_file.unlink()
        folder.write_history([])
