"""What XLA compiled is kept for the next run, safely."""

import os

import pytest

from tests.test_cli import SMALL, command, environment
from tf_ldiaf.execution import compiled_programs


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where the programs will be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    return compiled_programs._folder()


def test_the_cache_is_set_and_older_programs_go_when_it_is_full(folder, monkeypatch):
    monkeypatch.setattr(compiled_programs, "_MOST_BYTES", 10)
    folder.mkdir(parents=True)
    for age, size in enumerate([4, 5, 6, 1]):
        (folder / str(age)).write_bytes(b"x" * size)
        os.utime(folder / str(age), (1e9 - age, 1e9 - age))
    compiled_programs._write_checksums(folder)
    compiled_programs.keep()
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_persistent_cache_directory={folder}"
    assert sorted(file.name for file in folder.iterdir()) == ["0", "1", "checksums.json"]


@pytest.mark.parametrize("checksums", ["", "{", "[1]", "[" * 10**5, None])
def test_programs_that_changed_or_that_no_process_vouched_for_go(checksums, folder):
    folder.mkdir(parents=True)
    names = ["whole", "truncated", "flipped", "emptied"]
    for name in names:
        (folder / name).write_bytes(b"program")
    compiled_programs._write_checksums(folder)
    (folder / "truncated").write_bytes(b"progr")
    (folder / "flipped").write_bytes(b"programs"[1:])
    (folder / "emptied").write_bytes(b"")
    (folder / "new").write_bytes(b"program")
    if checksums is not None:
        (folder / "checksums.json").write_text(checksums)
    compiled_programs.keep()
    assert "TF_XLA_FLAGS" in os.environ
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json"] + ["whole"] * (checksums is None)


def test_a_users_own_flags_stay(folder, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/mine")
    compiled_programs.keep()
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_persistent_cache_directory=/mine"
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    compiled_programs.keep()
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_clustering_debug --tf_xla_persistent_cache_directory={folder}"


@pytest.mark.parametrize("home", ["/proc/nowhere", "with space", "file"])
def test_without_a_usable_folder_nothing_is_kept(home, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", home if home.startswith("/") else str(tmp_path / home))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    compiled_programs.keep()
    assert "TF_XLA_FLAGS" not in os.environ


def test_without_a_home_nothing_is_kept_in_the_working_folder(monkeypatch, tmp_path):
    """So it is for a user of a container whom no file of users names."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    compiled_programs.keep()
    assert "TF_XLA_FLAGS" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_nearly_full_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(compiled_programs, "_MOST_BYTES", 10**18)
    compiled_programs.keep()
    assert "TF_XLA_FLAGS" not in os.environ


@pytest.mark.long
def test_a_second_training_finds_the_programs_but_for_damaged_ones_and_comes_to_the_same_bits(folder, tmp_path):
    (tmp_path / "small.cfg").write_text(
        SMALL.replace("--nojit_compile", "--jit_compile").replace("fc_vae\n--num_nodes=2", "vae")
    )
    env = environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    rows, kept, damaged = [], [], set()
    for run in ("first", "second"):
        if run == "second":
            file = min(compiled_programs._programs(folder), key=lambda file: file.stat().st_size)
            os.truncate(file, file.stat().st_size // 2)
            damaged = {file.name}
        done = command("train", "--flagfile=small.cfg", f"--run_dir={run}", cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        lines = (tmp_path / run / "history.csv").read_text().splitlines()
        of_a_clock = [lines[0].split(",").index(name) for name in ("images_per_second", "seconds")]
        rows.append([[value for i, value in enumerate(line.split(",")) if i not in of_a_clock] for line in lines])
        kept.append({file.name: file.stat().st_mtime_ns for file in compiled_programs._programs(folder)})
    first, second = kept
    assert rows[0] == rows[1]
    assert len(first) >= 2  # a training and a validation step at least
    assert second.keys() == first.keys()
    assert {name for name in first if first[name] != second[name]} == damaged
