"""Checkpoints: no damage goes unnoticed, the one before takes over, and a write that fails loses nothing."""

import shutil
import zipfile

import numpy as np
import pytest

from tf_ldiaf.errors import CheckpointError, FileError
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import checkpoints, evaluation, run_folder
from tf_ldiaf.results.checkpoints import Progress
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.training.phases import make_model


def progress_of(phase):
    rows = [{"phase": phase, "epoch": 3, "elbo": -1 / 3}]
    return Progress(phase, 3, 4, [7.0, [0.1, -2e-7]], rows, [], [3, 3], 8, [], None)


@pytest.fixture(scope="module")
def written(tiny, images, tmp_path_factory):
    """A folder after two checkpoints, of a structure phase and of a final one, and the second's model."""
    config = tiny("graph_vae", num_nodes=2, ema_decay=0.9)
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.create(config)
    for phase, edges in (("structure", None), ("final", [(2, 1)])):
        model = make_model(config, edges, (3, 3), num_epochs=1, num_steps=9)
        model.fit(images(8), batch_size=4, verbose=0)
        checkpoints.write(model, progress_of(phase), folder)
    checkpoints.write_best(model, folder)
    return folder, model


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written[0].path, tmp_path, dirs_exist_ok=True)
    return RunFolder(tmp_path)


def test_what_was_written_comes_back_to_the_bit(written, capsys):
    folder, model = written
    path, progress = checkpoints.read(folder)
    assert (path, progress) == (folder.last, progress_of("final"))
    found = make_model(folder.read_config(), [(2, 1)], (3, 3), num_epochs=1, num_steps=9)
    checkpoints.load_state(found, path)
    kept = (m.variables + m.optimizer.variables for m in (found, model))
    for ours, theirs in zip(*kept, strict=True):
        assert np.array_equal(ours, theirs), ours.path
    assert int(found.optimizer.iterations) == 2
    assert capsys.readouterr().err == ""
    assert sorted(file.name for file in folder.last.parent.iterdir()) == ["best.keras", "last.keras", "previous.keras"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoints.read(RunFolder(tmp_path)) is None


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_has_lost_its_checkpoints_does_not_begin_again(folder, finished):
    for file in (folder.last, folder.previous):
        file.unlink()
    assert checkpoints.read(folder) is None
    if finished:
        folder.report_file.write_text("what came out")
    else:
        folder.write_history([{"phase": "final", "epoch": epoch, "seconds": 31.0} for epoch in (1, 2)])
    with pytest.raises(CheckpointError, match=r"`run_dir` must hold last\.keras.*which has lost them; `overwrite`"):
        checkpoints.read(folder)


def truncated(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def flipped(content):
    middle = content.index(b"model.weights.h5") + len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def other(content):
    return b"not an archive"


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, other, None])
def test_the_previous_checkpoint_takes_over(folder, capsys, damage):
    if damage is None:
        folder.last.unlink()
    else:
        folder.last.write_bytes(damage(folder.last.read_bytes()))
    assert checkpoints.read(folder) == (folder.previous, progress_of("structure"))
    assert checkpoints.load(folder.previous).gates.fixed is None
    assert not folder.last.exists()  # else the next write would make the damaged one the previous
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"Warning: {folder.last} must be an undamaged checkpoint. Received: ")
    assert warning.endswith("Going on from previous.keras.")


def test_checksums_are_verified_whatever_keras_reads(folder, written, monkeypatch):
    monkeypatch.setattr(checkpoints.keras.models, "load_model", lambda *_, **__: written[1])
    assert checkpoints.load(folder.best) is written[1]
    folder.best.write_bytes(flipped(folder.best.read_bytes()))
    with pytest.raises(CheckpointError, match=r"Received: model\.weights\.h5 with a wrong checksum"):
        checkpoints.load(folder.best)


def test_no_flipped_byte_goes_unnoticed_or_changes_anything(folder, written):
    """Every 97th byte of the data, and every byte of the archive's own records of its members."""
    content = bytearray(folder.best.read_bytes())
    with zipfile.ZipFile(folder.best) as archive:
        records = [i for info in archive.infolist() for i in range(info.header_offset, info.header_offset + 60)]
        records += range(archive.start_dir, len(content))
    unnoticed = 0
    for i in [*range(0, len(content), 97), *records]:
        content[i] ^= 0x10
        folder.best.write_bytes(content)
        content[i] ^= 0x10
        try:
            with zipfile.ZipFile(folder.best) as archive:
                intact = archive.testzip() is None and len(archive.namelist()) == 3
            found = checkpoints.load(folder.best, compile=False) if intact else None
        except Exception:
            continue
        if found is not None:
            unnoticed += 1
            for ours, theirs in zip(found.variables, written[1].variables, strict=True):
                assert np.array_equal(ours, theirs)
    assert unnoticed < 300  # dates, versions and attributes of members


def test_two_damaged_checkpoints_are_one_sentence_each(folder):
    for file in (folder.last, folder.previous, folder.best):
        file.write_bytes(truncated(file.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"last\.keras must be an undamaged.*previous\.keras must be an undamaged"
    ):
        checkpoints.read(folder)
    with pytest.raises(CheckpointError, match=r"best\.keras must be an undamaged checkpoint"):
        evaluation.load_best(folder)


def test_a_checkpoint_without_progress_or_of_another_model_is_refused(folder, written):
    import keras

    folder.previous.unlink()
    shutil.copy(folder.best, folder.last)
    with pytest.raises(CheckpointError, match=r"last\.keras must say how far its run has come"):
        checkpoints.read(folder)
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(folder.last)
    with pytest.raises(
        CheckpointError, match=r"last\.keras must be a checkpoint of this package. Received: a Sequential"
    ):
        checkpoints.read(folder)


@pytest.mark.parametrize("part", ["save", "fsync"])
def test_a_write_that_fails_leaves_the_checkpoints_as_they_were(folder, written, monkeypatch, part):
    before = {file.name: file.read_bytes() for file in folder.last.parent.iterdir()}

    def full(model_or_file, path=None):
        if path is not None:
            path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    if part == "save":
        monkeypatch.setattr(LDIAF, "save", full)
    else:
        monkeypatch.setattr(run_folder.os, "fsync", full)
    for write in (
        lambda: checkpoints.write(written[1], progress_of("final"), folder),
        lambda: checkpoints.write_best(written[1], folder),
    ):
        with pytest.raises(FileError, match=r"checkpoints must be a folder that can be written.*No space left"):
            write()
    assert {file.name: file.read_bytes() for file in folder.last.parent.iterdir()} == before
