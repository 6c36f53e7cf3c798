"""The command lines, as a user runs them: from another folder, in a process of their own."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile

import pytest

from tf_ldiaf import Config, cli
from tf_ldiaf.errors import FileError
from tf_ldiaf.results.run_folder import RunFolder

REPO = pathlib.Path(__file__).parents[1]
COMMANDS = ("train", "evaluate", "compare", "export", "sample", "explore")
SMALL = """
# a comment
--method=fc_vae
--num_nodes=2
--node_dim=2
--encoder_units=8
--decoder_units=8
--node_units=8
--limit_train=64
--batch_size=32
--epochs=1
--nojit_compile
"""


def environment(*first):
    """As a user's: none of what pytest or conftest set; `first` is searched before the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_", "PYT"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, [*first, REPO]))}


def command(name, *arguments, cwd, env):
    line = [sys.executable, "-m", f"tf_ldiaf.{name}", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """An environment in which importing TensorFlow or Keras fails: what runs there has not imported them."""
    folder = tmp_path_factory.mktemp("stub")
    for name in ("tensorflow", "keras"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return environment(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a run, other things, a hollow SavedModel and flagfiles."""
    place = tmp_path_factory.mktemp("place")
    RunFolder(place / "run").create(Config(method="graph_vae", epochs=7))
    (place / "other").mkdir()
    (place / "other" / "thesis.tex").write_text("precious")
    (place / "saved").mkdir()
    (place / "saved" / "saved_model.pb").write_text("")
    (place / "unknown.cfg").write_text("--epoch=3\n")
    (place / "bad.cfg").write_text("# text\n--learning_rate=fast\n")
    (place / "binary.cfg").write_bytes(b"\xff\x00")
    (place / "slow.cfg").write_text("--learning_rate=0.5\n")
    (place / "fast.cfg").write_text("--learning_rate=50\n")
    return place


def contents(folder):
    return {str(file): file.is_file() and file.read_bytes() for file in folder.rglob("*")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --epoch=3", "Unknown command line flag 'epoch'"),
        ("train --method=ldaif", "method"),
        ("train --method", "method"),
        ("train --learning_rate=-1", "--learning_rate must be "),
        ("train --learning_rate=nan", "--learning_rate must be "),
        ("train --epochs=many", "epochs=many"),
        ("train --epochs=0", "--epochs must be at least 1. Received: 0."),
        ("train --batch_size=1.5", "batch_size=1.5"),
        ("train --seed=-1", "--seed must be "),
        ("train --encoder_units=8,x", "--encoder_units must be whole numbers separated by commas. Received: 8,x."),
        ("train --jit_compile=maybe", "jit_compile=maybe"),
        ("train --method=vae --num_flow_steps=2", "--num_flow_steps is always 0 with --method=vae. Received: 2."),
        ("train --method=fc_vae --structure_epochs=3", "--structure_epochs is always 0 with --method=fc_vae"),
        ("train --method=graph_vae --flow_units=8", "--flow_units needs a flow, which this graph_vae lacks"),
        ("train --method=vae --initial_gate_prob=0.9", "--initial_gate_prob needs learned gates"),
        ("train --num_flow_steps=0", "--num_flow_steps must be at least 1 with --method=ldiaf"),
        ("train --weight_decay=0.1", "--weight_decay needs --optimizer=adamw"),
        ("train vae", "Arguments must be flags, --name=value. Received: vae."),
        ("train --flagfile=missing.cfg", "missing.cfg"),
        ("train --flagfile=unknown.cfg", "Unknown command line flag 'epoch'"),
        ("train --flagfile=bad.cfg", "learning_rate=fast"),
        ("train --run_dir=run", "holds a run; --resume continues it, --overwrite replaces it."),
        ("train --run_dir=other", "--run_dir must be a new folder. Received: other, which holds other things."),
        ("train --run_dir=other --overwrite", "holds other things"),
        ("train --resume", "--run_dir must be given"),
        ("train --resume --overwrite --run_dir=run", "--resume and --overwrite must not be given together"),
        ("train --resume --run_dir=other", "--run_dir must be the folder of a run. Received: other"),
        ("train --resume --run_dir=run --epochs=5", "--epochs must be at least 7, as in the run to resume"),
        ("evaluate", "--run_dir must be given"),
        ("evaluate --run_dir=other", "--run_dir must be the folder of a run. Received: other"),
        ("evaluate --run_dir=run --num_importance_samples=0", "num_importance_samples"),
        ("evaluate --run_dir=run --epochs=3", "Unknown command line flag 'epochs'"),
        ("export --run_dir=missing", "--run_dir must be the folder of a run. Received: missing"),
        ("sample --out=a.png", "--saved_model must be given"),
        (
            "sample --saved_model=other --out=a.png",
            "--saved_model must be a folder with a SavedModel. Received: other.",
        ),
        ("sample --saved_model=saved", "--out or --graph must be given"),
        ("sample --saved_model=saved --out=a.jpg", "--out must end in .png. Received: a.jpg."),
        ("sample --saved_model=saved --graph=a.svg", "--graph must end in .png or .dot or .json. Received: a.svg."),
        ("sample --saved_model=saved --out=no/a.png", "--out must be in a folder that exists"),
        ("sample --saved_model=saved --num=0 --out=a.png", "num"),
        ("explore", "--saved_model must be given"),
        ("explore --saved_model=other", "--saved_model must be a folder with a SavedModel. Received: other."),
        ("explore --saved_model=saved --port=70000", "port"),
        ("compare", "Two runs or more must be given, as folders. Received: nothing."),
        ("compare run", "Two runs or more must be given, as folders. Received: run."),
        ("compare run other", "RUN must be the folder of a run. Received: other."),
        (
            "compare run run --out=run/curves.png",
            "--out must not lie in the folder of a run. Received: run/curves.png.",
        ),
        ("compare run run --out=c.jpg", "--out must end in .png. Received: c.jpg."),
        ("train --flagfile=binary.cfg", "binary.cfg"),
        (f"train --run_dir={'r' * 300}", "--run_dir"),
    ],
)
def test_an_error_is_one_line_and_changes_nothing(line, words, place, no_tensorflow):
    before = contents(place)
    name, *arguments = line.split()
    done = command(name, *arguments, cwd=place, env=no_tensorflow)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{name}: ")
    assert words in done.stderr
    assert contents(place) == before


def test_a_path_that_is_no_text_is_one_sentence(place, no_tensorflow):
    """Reports and model cards could not be written."""
    name = os.fsdecode(b"Ma\xdf.npz")
    done = command("train", f"--dataset={name}", "--run_dir=new", cwd=place, env=no_tensorflow)
    assert done.returncode == 2
    assert done.stderr == f"train: --dataset must be text in UTF-8 without a null byte. Received: {name!r}.\n"


def test_without_a_place_for_temporary_files_it_is_one_sentence(monkeypatch):
    def full(*_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/mine")
    message = r"^TMPDIR must name a folder that can be written\. Received: No usable"
    with pytest.raises(FileError, match=message), cli.quiet_tensorflow():
        pass


@pytest.mark.parametrize("name", COMMANDS)
def test_help_comes_without_tensorflow(name, place, no_tensorflow):
    done = command(name, "--help", cwd=place, env=no_tensorflow)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {
        "train": ["--method", "--[no]resume", "--learning_rate"],
        "evaluate": ["--num_importance_samples"], "export": ["--run_dir"], "sample": ["--reconstruct"],
        "explore": ["--static", "--[no]browser"],
        "compare": ["RUN", "--out"],
    }[name]  # fmt: skip
    assert all(word in done.stdout for word in [*expected, "--flagfile"])


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_an_extra_that_is_missing_is_one_sentence(package, place, no_tensorflow, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{package}'] = None")
    env = no_tensorflow | {"PYTHONPATH": os.pathsep.join([str(tmp_path), no_tensorflow["PYTHONPATH"]])}
    done = command("explore", "--saved_model=saved", cwd=place, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'explore: The explorer needs {package}: pip install "tf_ldiaf[explore]".\n'


def test_the_commands_are_those_of_one_program_too(place, no_tensorflow):
    def told(*arguments):
        program = f"import sys; sys.argv = {['bin/tf-ldiaf', *arguments]}; from tf_ldiaf.__main__ import main; main()"
        line = [sys.executable, "-c", program]
        done = subprocess.run(line, cwd=place, env=no_tensorflow, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, errors = told("train", "--help")
    assert (code, errors) == (0, "")
    assert "--learning_rate" in out
    code, out, errors = told("evaluate", "--run_dir=other")
    assert (code, out) == (2, "")
    assert errors.startswith("evaluate: --run_dir must be the folder of a run. Received: other")
    code, out, errors = told("trian")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "must be one of train, evaluate, compare, export, sample, explore. Received: trian." in errors
    assert all(f"tf_ldiaf.{name} " in told()[1] for name in COMMANDS)


@pytest.mark.parametrize(
    "order", ["--flagfile={0} {1}", "{1} --flagfile={0}", "--flagfile {0} {1}", "{1} -flagfile={0}"]
)
def test_the_command_line_wins_over_a_flagfile(order, place, no_tensorflow):
    def error(file, flag):
        return command("train", "--run_dir=run", *order.format(file, flag).split(), cwd=place, env=no_tensorflow).stderr

    assert "Received: 50.0." in error("slow.cfg", "--learning_rate=50")
    assert "which holds a run" in error("fast.cfg", "--learning_rate=0.5")  # the check after that of the rate


@pytest.fixture
def wheel(tmp_path_factory):
    """The package as its wheel installs it, apart from the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(REPO / "tf_ldiaf", source / "tf_ldiaf")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", built, source], check=True)
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_the_wheel_goes_from_training_to_samples_in_another_folder(tmp_path, wheel):
    page = "tf_ldiaf/explorer/page"
    assert {file.name for file in (wheel / page).iterdir()} == {file.name for file in (REPO / page).iterdir()}
    (tmp_path / "small.cfg").write_text(SMALL)
    lines = [
        "train --flagfile=small.cfg --run_dir=runs/a --epochs=2",
        "evaluate --run_dir=runs/a --num_importance_samples=3 --edge_worth",
        "export --run_dir=runs/a",
        "sample --saved_model=saved_models/a --num=5 --out=s.png --graph=g.dot",
    ]
    output = {}
    for line in lines:
        name, *arguments = line.split()
        done = command(name, *arguments, cwd=tmp_path, env=environment() | {"PYTHONPATH": str(wheel)})
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # no chatter
        output[name] = done.stdout
    settings = json.loads((tmp_path / "runs" / "a" / "config.json").read_text())["settings"]
    assert (settings["method"], settings["epochs"], settings["jit_compile"]) == ("fc_vae", 2, False)
    assert "Next: python -m tf_ldiaf.evaluate --run_dir=runs/a" in output["train"]
    metrics = json.loads((tmp_path / "runs" / "a" / "metrics.json").read_text())
    assert f"{metrics['test_log_likelihood']:.2f} +- " in output["evaluate"]
    assert f"{metrics['test_log_likelihood']:.2f} +- " in (tmp_path / "saved_models" / "a" / "README.md").read_text()
    [edge] = metrics["test_edge_worth"]
    worth = f"{edge['nats']:.2f} +- {edge['stderr']:.2f} nats"
    assert (edge["parent"], edge["child"]) == (2, 1)
    assert re.search(rf"\| worth of z2 -> z1 +\| {re.escape(worth)}", output["evaluate"])
    assert f"what it is worth in nats): z2 -> z1 ({worth})" in (tmp_path / "saved_models/a/README.md").read_text()
    assert f'z2 -> z1 [label="{worth}"]' in (tmp_path / "g.dot").read_text()
    for file in ("s.png", "s.npz", "g.dot"):
        assert (tmp_path / file).stat().st_size > 0
        assert file in output["sample"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "g.dot", "runs", "s.npz", "s.png", "saved_models", "small.cfg",
    ]  # fmt: skip


def test_data_that_cannot_be_used_leave_no_folder(tmp_path):
    done = command("train", "--dataset=missing.npz", "--run_dir=run", cwd=tmp_path, env=environment())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "train: --dataset must be a file or a folder that exists. Received: missing.npz, which does not exist.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "word", "code"),
    [
        (signal.SIGINT, "interrupted", 130),
        pytest.param(signal.SIGTERM, "terminated", 143, marks=pytest.mark.long),
    ],
)
def test_a_stopped_training_is_kept_and_says_how_to_continue(tmp_path, number, word, code):
    (tmp_path / "small.cfg").write_text(SMALL)
    line = [sys.executable, "-u", "-m", "tf_ldiaf.train", "--flagfile=small.cfg", "--epochs=100000", "--run_dir=run"]
    with subprocess.Popen(
        line,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell in the background has its children ignore Ctrl-C; a terminal has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for text in process.stdout:
            if re.match(r"final +[3-9]\d*/", text):
                break
        process.send_signal(signal.SIGSTOP)  # it leaves the cores to the others
        second = command("train", "--run_dir=run", "--overwrite", cwd=tmp_path, env=environment())
        assert second.returncode == 2
        assert second.stderr == "train: --run_dir must be a folder in which no other process trains. Received: run.\n"
        for one in (signal.SIGCONT, number):
            process.send_signal(one)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "To continue: python -m tf_ldiaf.train --run_dir=run --resume" in output
    assert errors.split() == ["train:", word + "."]
    folder = RunFolder(tmp_path / "run")
    with zipfile.ZipFile(folder.last) as archive:
        progress = json.loads(archive.read("progress.json"))
    assert progress["rows"] == folder.read_history()
    assert progress["epoch"] == len(progress["rows"]) >= 2


@pytest.mark.long
def test_an_output_that_takes_no_more_is_one_sentence_and_the_run_goes_on(tmp_path):
    (tmp_path / "small.cfg").write_text(SMALL)
    line = [sys.executable, "-m", "tf_ldiaf.train", "--flagfile=small.cfg", "--run_dir=run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == f"train: {cli._NO_OUTPUT}\n"
    done = command("train", "--run_dir=run", "--resume", cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "tf_ldiaf.train", "--help"], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == f"train: {cli._NO_OUTPUT}\n"
