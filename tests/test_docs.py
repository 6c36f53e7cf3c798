"""README, docs/ and the notebooks: links lead somewhere, examples run, commands have the flags they are given."""

import contextlib
import copy
import doctest
import functools
import importlib
import io
import json
import pathlib
import re
import shlex
import textwrap

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tf_ldiaf import LDIAF, Config, data, structure
from tf_ldiaf.flags import given_settings

REPO = pathlib.Path(__file__).parents[1]
DOCUMENTED = ("train", "evaluate", "compare", "export", "sample", "explore")
COMMANDS = [name for name in DOCUMENTED if (REPO / "tf_ldiaf" / f"{name}.py").exists()]


def text_of(page):
    """A page in Markdown, snippets in place; a notebook's code cells are fenced."""
    if page.suffix == ".md":
        return re.sub(r'^--8<-- "(\S+)"$', lambda found: (REPO / found[1]).read_text(), page.read_text(), flags=re.M)
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(page.read_text())["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


PAGES = {
    str(page.relative_to(REPO)): text_of(page)
    for page in [
        *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((REPO / "docs").rglob("*.md")),
        *sorted((REPO / "docs").rglob("*.ipynb")),
    ]
}
FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def fences(page, *kinds):
    """The kind and the lines of each fenced block of these kinds."""
    return [(kind, textwrap.dedent(lines)) for _, kind, lines in FENCED.findall(PAGES[page]) if kind in kinds]


def prose(page):
    return FENCED.sub("", PAGES[page])


def inline_code(page):
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_readme_is_a_screen_to_want_it_and_one_to_use_it():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(page)))
    for link in [link for link in links if "://" not in link]:
        path, _, anchor = link.partition("#")
        file = (REPO / page).parent / path if path else REPO / page
        assert file.exists(), link
        assert not anchor or anchor in anchors(text_of(file)), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    ours = re.compile(r"(configs|examples|tests|docs|benchmarks|saved_models|tf_ldiaf)/[a-z0-9_./]+")
    missing = [path for path in inline_code(page) if ours.fullmatch(path) and not (REPO / path).exists()]
    assert not missing


# Examples


def few(train, valid):
    return data.TrainingImages(train[:64], valid[:32])


def of_two_edges(measure):
    short = {"num_steps": 1, "num_samples": 1, "jit_compile": False}
    return lambda model, *images: measure(structure.with_edges(model, model.edges[:2]), *images, **short)


@pytest.fixture
def hurried(monkeypatch):
    """What takes minutes takes a moment: few images and edges, one epoch, nothing is traced or compiled."""
    fit, compile_ = LDIAF.fit, LDIAF.compile
    once = {"epochs": 1, "verbose": 0}
    eager = {"structure_epochs": 1, "jit_compile": False, "run_eagerly": True}
    monkeypatch.setattr(LDIAF, "fit", lambda *args, **kwargs: fit(*args, **kwargs | once))
    monkeypatch.setattr(LDIAF, "compile", lambda *args, **kwargs: compile_(*args, **kwargs | eager))
    load, load_test = data.load_training, data.load_test
    monkeypatch.setattr(data, "load_training", lambda *args, **kwargs: few(*load(*args, **kwargs)))
    monkeypatch.setattr(data, "load_test", lambda settings: load_test(settings)[:32])
    monkeypatch.setattr(LDIAF, "loops_can_be_compiled", False)
    for name in ("remove_edges", "edge_worth"):
        monkeypatch.setattr(structure, name, of_two_edges(getattr(structure, name)))
    monkeypatch.setattr(structure, "search", functools.partial(structure.search, num_steps=1))
    matplotlib.use("Agg")


@pytest.fixture
def names():
    """What the examples take for granted: images, masks of five parts of them, and two models."""
    x = (load_digits().images > 8).astype("uint8")  # pyright: ignore[reportAttributeAccessIssue]
    masks = np.zeros((5, 8, 8))
    for part, rows in enumerate(np.array_split(np.arange(8), 5)):
        masks[part, rows] = 1
    model = LDIAF(2, 2, 0, edges=[(2, 1)], encoder_units=[8], decoder_units=[8])
    model.build((None, 8, 8))
    images = {"x_train": x[:64], "x_valid": x[64:96], "x_test": x[96:128]}
    return images | {"masks": masks, "model": model, "other": model}


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page, "python", "pycon")])
def test_examples_run_in_the_order_of_the_page(page, hurried, names, monkeypatch):
    monkeypatch.chdir(REPO)
    names["__name__"] = "__main__"
    for kind, lines in fences(page, "python", "pycon"):
        if kind == "python":
            exec(compile(lines, page, "exec"), names)
            continue
        example = doctest.DocTestParser().get_doctest(lines, names, page, page, 0)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            failed, tried = doctest.DocTestRunner().run(example, clear_globs=False)
        names |= example.globs
        assert tried
        assert not failed, said.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".ipynb")])
def test_notebooks_keep_their_pictures_and_nothing_of_the_machine(page):
    text = (REPO / page).read_text()
    assert '"image/png"' in text
    assert not re.search(r'"stderr"|/tmp/|/home/', text)


# Commands


def command_lines(page, pattern):
    """Name and arguments of each command that `pattern` finds, in blocks of a shell and in the text."""
    blocks = [lines.replace("\\\n", " ") for _, lines in fences(page, "bash", "text")]
    for text in [*blocks, *inline_code(page)]:
        for line in text.splitlines():
            found = re.match(rf"{pattern}(\w+)(?:\s+(.*))?$", line.partition(" # ")[0].strip())
            if found and not found[1].isupper():
                yield found[1], shlex.split(found[2] or "")


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_flags_that_they_are_given(page):
    for name, arguments in command_lines(page, r"(?:\S*python -m tf_ldiaf\.|\S*tf-ldiaf )"):
        assert name in DOCUMENTED
        if name not in COMMANDS:
            continue
        flags = copy.deepcopy(importlib.import_module(f"tf_ldiaf.{name}").FLAGS)
        files = [argument.partition("=")[2] for argument in arguments if argument.startswith("--flagfile=")]
        assert all((REPO / file).exists() for file in files if "METHOD" not in file)
        others = [argument for argument in arguments if not argument.startswith(("--flagfile=", "--help"))]
        rest = flags([name, *others])[1:]
        assert name == "compare" or not rest
        if name == "train":
            Config.from_json(given_settings(flags))


@pytest.mark.parametrize("page", PAGES)
def test_benchmarks_have_the_flags_that_they_are_given(page):
    for name, arguments in command_lines(page, r"\S*python -m benchmarks\."):
        source = (REPO / "benchmarks" / f"{name}.py").read_text()
        for argument in arguments:
            assert f'"{argument.partition("=")[0]}"' in source


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_are_in_the_makefile(page):
    targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    for text in [*(lines for _, lines in fences(page, "bash")), *inline_code(page)]:
        for line in re.findall(r"^make ((?:[a-z-]+ ?)+)", text, re.MULTILINE):
            assert set(line.split()) <= {*targets}


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_exist(page):
    known = {"help", "flagfile", "name", "static"}
    for name in COMMANDS:
        known |= {*importlib.import_module(f"tf_ldiaf.{name}").FLAGS}
    for file in (REPO / "benchmarks").glob("*.py"):
        known |= {*re.findall(r'"--(\w+)"', file.read_text())}
    ours = [code for code in inline_code(page) if re.match(r"--|[a-z]+ --", code)]
    named = {flag for code in ours for flag in re.findall(r"--(\w+)", code)}
    assert {flag for flag in named if flag not in known and flag.removeprefix("no") not in known} == set()
