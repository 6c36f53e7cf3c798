"""Whatever is given: what is read is used or refused in one sentence. Searched by hypothesis, alike every time."""

import json
import signal
import sys

import hypothesis
import numpy as np
import pytest
from absl import flags
from hypothesis import strategies as st

from tf_ldiaf import Config, cli, data
from tf_ldiaf.errors import LDIAFError
from tf_ldiaf.flags import define_settings, given_settings
from tf_ldiaf.results.run_folder import RunFolder

searched = hypothesis.settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
NAMES = list(Config.__dataclass_fields__)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
LIKELY = st.integers(-1, 9) | st.floats(-1, 2) | st.sampled_from(
    ["", "vae", "ldiaf", "graph_vae", "all", "none", "5-1,3-2", "adamw", "dynamic", "skip", "constant"]
) | st.lists(st.integers(0, 9), max_size=3)  # fmt: skip


@searched
@hypothesis.given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), LIKELY | JSON, max_size=5))
def test_settings_are_admitted_or_refused(settings):
    try:
        config = Config.from_json(settings)
    except LDIAFError as error:
        assert "eceived: " in str(error)  # noqa: PT017, it need not be raised
        return
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert all(getattr(config, name) == value or isinstance(value, list) for name, value in settings.items()
               if value is not None)  # fmt: skip


@pytest.fixture
def flags_of_train(monkeypatch):
    """Runs the command `train` up to its settings: (exit code, settings or None)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(arguments):
        values = flags.FlagValues()
        define_settings(values)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        found = []
        try:
            cli.run(lambda: found.append(Config.from_json(given_settings(values))), "", values)
        except SystemExit as end:
            return end.code, None
        return 0, found[0] if found else None

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


WORDS = st.text(max_size=9) | st.sampled_from(["--", "-", "--noedges", "--jit_compile"])
FLAG = st.builds("--{}={}".format, st.sampled_from(NAMES), LIKELY | st.text(max_size=9))
ARGUMENTS = st.lists(
    FLAG | st.text(max_size=9) | st.sampled_from(["--", "-", "--noedges", "--jit_compile"]), max_size=4
)


@searched
@hypothesis.given(ARGUMENTS.filter(lambda arguments: not {"--help", "-h"} & set(arguments)))
def test_command_lines_are_obeyed_or_refused(flags_of_train, capsys, arguments):
    code, config = flags_of_train(arguments)
    errors = capsys.readouterr().err
    if code:
        assert code == 2
        assert errors.startswith("train: ")
        assert errors.count("\n") == 1
    else:
        assert errors == ""
        assert config is None or isinstance(config, Config)


@searched
@hypothesis.given(st.binary(max_size=60) | st.lists(FLAG, max_size=3).map(lambda lines: "\n".join(lines).encode()))
def test_flagfiles_are_obeyed_or_refused(flags_of_train, capsys, tmp_path, content):
    (tmp_path / "it.cfg").write_bytes(content)
    code, _ = flags_of_train([f"--flagfile={tmp_path}/it.cfg"])
    errors = capsys.readouterr().err
    assert (code, errors.count("\n")) in {(0, 0), (2, 1)}


@searched
@hypothesis.given(st.data())
def test_npz_files_are_read_or_refused(tmp_path, data_):
    file = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 3)).astype("uint8")
    (np.savez_compressed if data_.draw(st.booleans()) else np.savez)(file, train=images)
    content = bytearray(file.read_bytes())
    for _ in range(data_.draw(st.integers(1, 4))):
        at = data_.draw(st.integers(0, len(content) - 1))
        content[at : at + data_.draw(st.integers(0, 9))] = data_.draw(st.binary(max_size=9))
    file.write_bytes(content)
    try:
        found = data.load_training(Config(dataset=str(file)), seed=0)
    except LDIAFError as error:
        assert "eceived: " in str(error)  # noqa: PT017
        return
    assert set(np.unique(found.train)) <= {0, 1}


@searched
@hypothesis.given(
    st.text(max_size=40) | JSON.map(json.dumps), st.sampled_from(["history.csv", "gates.json", "config.json"])
)
def test_files_of_a_run_are_read_or_refused(tmp_path_factory, text, name):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.create(Config())
    (folder.path / name).write_text(text, "utf-8", "surrogatepass")
    for read in (folder.read_config, folder.read_gates, folder.read_history):
        try:
            read()
        except LDIAFError as error:
            assert "eceived: " in str(error)  # noqa: PT017
