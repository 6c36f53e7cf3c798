"""The rules of the house: who imports whom, where each equation stands, what no file may hold."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]
MODULES = {file.stem: file for file in sorted((REPO / "tf_ldiaf").glob("*.py"))}
CONFIGS = sorted((REPO / "configs").glob("*.cfg"))

# What each module imports of ours, wherever in the file. Edit it with a reason: data goes one way,
# config, data -> model -> training -> run folder -> evaluate, sample, export.
ALLOWED = {
    "__init__": "config model",
    "bounds": "",
    "config": "",
    "layers": "",
    "noise": "",
    "flows": "layers",
    "gates": "noise",
    "metrics": "",
    "gaussians": "layers noise",
    "networks": "gaussians layers",
    "pictures": "",
    "schedules": "",
    "stopping": "",
    "cli": "compiled_programs config stopping",
    "compiled_programs": "",
    "records": "config",
    "sources": "config records",
    "data": "config noise records sources",
    "run_folder": "config __version__",
    "latents": "config flows gates gaussians layers networks noise",
    "model": "bounds config latents layers metrics networks noise schedules",
    "tensorboard": "config gates pictures run_folder",
    "checkpoints": "config model run_folder",
    "distribution": "config",
    "recorder": "checkpoints config data distribution run_folder stopping",
    "training": "checkpoints config data distribution gates model networks pictures recorder records run_folder "
    "schedules stopping tensorboard",
    "evaluation": "bounds checkpoints config data distribution metrics model run_folder",
    "saved_model": "config evaluation model pictures run_folder stopping",
    "sampling": "config data pictures",
    "train": "cli config data distribution run_folder training",
    "evaluate": "cli distribution evaluation run_folder",
    "export": "cli config run_folder saved_model",
    "sample": "cli config sampling",
}

HOMES = {
    "gate": "gates", "prior": "latents", "root": "gaussians", "fusion": "gaussians", "iaf": "flows",
    "density": "flows", "elbo": "bounds", "iw": "bounds",
}  # fmt: skip


def nodes(file, kind):
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kind)]


def imported(file):
    """(module, names) of every import of ours."""
    found = set()
    for node in nodes(file, ast.Import):
        found |= {
            alias.name.partition(".")[2] or "__init__" for alias in node.names if alias.name.startswith("tf_ldiaf")
        }
    for node in nodes(file, ast.ImportFrom):
        if node.level or (node.module or "").startswith("tf_ldiaf"):
            below = (node.module or "").removeprefix("tf_ldiaf").strip(".")
            found |= {below} if below else {alias.name for alias in node.names}
    return found


def docstrings(file):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [text for node in nodes(file, kinds) if (text := ast.get_docstring(node))]


def test_every_module_imports_what_is_allowed():
    used = {name: imported(file) for name, file in MODULES.items()}
    assert used == {name: set(allowed.split()) for name, allowed in ALLOWED.items()}


def test_imports_have_no_circle():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {name for name, allowed in ALLOWED.items() if set(allowed.split()) - {"__version__"} <= done} - done
        assert ready, f"a circle among {set(ALLOWED) - done}"
        done |= ready


@pytest.mark.parametrize(
    "tag",
    HOMES,
)
def test_each_equation_is_stated_in_its_home_and_nowhere_else(tag):
    # Stated: "Eq. tag: ..." or "Eq. tag ... = ..." at the beginning of a docstring's line.
    stated = re.compile(rf"^\s*Eq\. {tag}(:|\s.*=)", re.MULTILINE)
    homes = {name for name, file in MODULES.items() if any(stated.search(text) for text in docstrings(file))}
    assert homes == {HOMES[tag]}


def test_only_known_equations_are_named():
    tags = {tag for file in MODULES.values() for text in docstrings(file) for tag in re.findall(r"Eq\. ([a-z]+)", text)}
    assert tags == set(HOMES)


def test_nats_become_bits_in_one_place():
    found = {name: len(re.findall(r"log\(2(?:\.0?)?\)|log2", file.read_text())) for name, file in MODULES.items()}
    assert {name: num for name, num in found.items() if num} == {"bounds": 1}


@pytest.mark.parametrize("name", MODULES)
def test_no_assert_and_no_pickle(name):
    assert not nodes(MODULES[name], ast.Assert)
    text = MODULES[name].read_text()
    assert not re.search(r"allow_pickle\s*=\s*True|import (c?pickle|joblib|dill)|safe_mode\s*=\s*False", text, re.I)


def test_no_file_is_long():
    files = [*MODULES.values(), *(REPO / "tests").glob("*.py")]
    assert {file.name: num for file in files if (num := len(file.read_text().splitlines())) > 400} == {}


def test_importing_the_package_imports_no_tensorflow():
    code = "import sys, tf_ldiaf; tf_ldiaf.Config(); print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# Experiments


def test_there_is_an_experiment_for_every_method():
    methods = ("vae", "vae_iaf", "fc_vae", "graph_vae", "ldiaf")
    expected = {f"{dataset}_{method}.cfg" for dataset in ("digits", "mnist") for method in methods}
    assert expected <= {file.name for file in CONFIGS}


@pytest.fixture(scope="module")
def given():
    """The settings that each flagfile gives, read as the command does."""
    code = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from tf_ldiaf.config import Config
Config.define_flags()
given = {}
for file in sys.argv[1:]:
    with flagsaver.flagsaver():
        rest = flags.FLAGS(["train", f"--flagfile={file}"])[1:]
        given[file] = {"settings": Config.given_flags(), "rest": rest}
print(json.dumps(given))
"""
    env = os.environ | {"PYTHONPATH": str(REPO)}
    line = [sys.executable, "-c", code, *map(str, CONFIGS)]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {pathlib.Path(file).name: content for file, content in json.loads(done.stdout).items()}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_an_experiment_parses_and_repeats_no_default(file, given):
    from tf_ldiaf.config import Config, ConfigError

    settings = given[file.name]["settings"]
    assert given[file.name]["rest"] == []
    config = Config.from_json(settings)
    assert file.stem.startswith(f"{config.dataset}_{config.method}"[: len(file.stem)])
    for name in settings:
        try:
            without = Config.from_json({key: value for key, value in settings.items() if key != name})
        except ConfigError:
            continue  # it is needed
        assert without != config, f"--{name} repeats its default"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_an_experiment_begins_with_a_comment_that_has_its_command_time_and_number(file):
    lines = file.read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert f"python -m tf_ldiaf.train --flagfile=configs/{file.name}" in header
    assert re.search(r"minutes? on 2 cores.*Test ELBO -\d+\.\d+ \+- \d+\.\d+", header)
    flags = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"--(\w+=\S+|no\w+|\w+)", line) for line in flags)
    assert len({line.partition("=")[0] for line in flags}) == len(flags)
