"""The rules of the house that no linter knows: where each equation stands, what no file may hold, the experiments."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]
MODULES = {
    file.relative_to(REPO / "tf_ldiaf").with_suffix("").as_posix(): file for file in (REPO / "tf_ldiaf").rglob("*.py")
}
CONFIGS = sorted((REPO / "configs").glob("*.cfg"))

# The table of equations: each tag, and the file that is its home.
HOMES = dict(
    re.findall(r"^\| Eq\. (\w+) \|.*\| `(\S+)\.py` \|$", (REPO / "docs" / "how_it_works.md").read_text(), re.MULTILINE)
)


def nodes(file, kind):
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kind)]


def docstrings(file):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [text for node in nodes(file, kinds) if (text := ast.get_docstring(node))]


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
    assert {name: num for name, num in found.items() if num} == {"probability/bounds": 1}


# It reads nothing: it copies layers of this process, which may hold functions of their own.
COPIES = "structure/graphs"


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {COPIES}))
def test_nothing_is_read_that_can_run_code(name):
    assert not re.search(r"allow_pickle\s*=\s*True|safe_mode\s*=\s*False", MODULES[name].read_text())


def test_no_file_is_long():
    files = [*MODULES.values(), *(REPO / "tests").glob("*.py")]
    assert {file.name: num for file in files if (num := len(file.read_text().splitlines())) > 400} == {}


def test_a_command_s_help_imports_no_tensorflow():
    line = [sys.executable, "-X", "importtime", "-m", "tf_ldiaf.train", "--help"]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "learns the latent graph" in done.stdout
    assert "tf_ldiaf.config" in imported
    assert not {"tensorflow", "keras", "numpy"} & imported


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
from tf_ldiaf.config import Config
from tf_ldiaf.flags import define_settings, given_settings
given = {}
for file in sys.argv[1:]:
    found = flags.FlagValues()
    define_settings(found)
    rest = found(["train", f"--flagfile={file}"])[1:]
    given[file] = {"settings": given_settings(found), "rest": rest}
print(json.dumps(given))
"""
    env = os.environ | {"PYTHONPATH": str(REPO)}
    line = [sys.executable, "-c", code, *map(str, CONFIGS)]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {pathlib.Path(file).name: content for file, content in json.loads(done.stdout).items()}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_an_experiment_parses_and_repeats_no_default(file, given):
    from tf_ldiaf.config import Config
    from tf_ldiaf.errors import ConfigError

    settings = given[file.name]["settings"]
    assert given[file.name]["rest"] == []
    config = Config.from_json(settings)
    assert file.stem.startswith(f"{pathlib.Path(config.dataset).stem}_{config.method}"[: len(file.stem)])
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
