"""The lines of a training, with a clock that is told what time it is; and runs side by side."""

import io
import re
import sys
import time

import pytest
from PIL import Image

from tf_ldiaf import Config, cli, compare
from tf_ldiaf.errors import ConfigError, FileError
from tf_ldiaf.results import comparison, pictures
from tf_ldiaf.results.report import clock
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.training.progress import ProgressLines

ROW = {
    "phase": "final", "elbo": -1234.567, "val_elbo": -80.126, "val_kl": 12.3, "images_per_second": 18201.4,
    "val_kl_node_1": 12.3, "val_kl_node_2": 0.003,
}  # fmt: skip


class Model:
    stop_training = False


@pytest.fixture
def now(monkeypatch):
    """The time, in seconds; the clock runs only when the test says so."""
    time_ = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: time_[0])
    return time_


def trained(now, epochs, launches=4, seconds=2.0, epochs_after=0.0, stop_after=None):
    """`ProgressLines` after so many epochs, each of whose launches takes so long. The first launch takes 10 more."""
    lines = ProgressLines("final", [], began=now[0], epochs_after=epochs_after)
    model = Model()
    lines.set_params({"steps": launches, "epochs": epochs})
    lines.set_model(model)
    with lines.bar:
        lines.on_train_begin()
        for epoch in range(epochs):
            lines.on_epoch_begin(epoch)
            for launch in range(launches):
                now[0] += seconds + (10 if not epoch and not launch else 0)
                lines.on_train_batch_end(launch)
            lines.on_test_begin()
            now[0] += 5 if not epoch else 0  # it is compiled, too
            lines.rows.append(ROW)
            model.stop_training = epoch + 1 == stop_after
            lines.on_epoch_end(epoch)
            if model.stop_training:
                break


def test_a_line_has_what_came_out_and_what_time_is_left(now, capsys):
    trained(now, epochs=3, epochs_after=1.5)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["phase", "epoch", "train", "valid", "KL", "live", "images/s", "elapsed", "left"]
    values = ["-1234.57", "-80.13", "12.30", "1/2", "18,201"]
    # An epoch takes 8 seconds. What is compiled is not counted on.
    assert lines[0].split() == ["final", "1/3", *values, "0:23", "0:28"]
    assert lines[1].split() == ["final", "2/3", *values, "0:31", "0:20"]
    assert lines[2].split() == ["final", "3/3", *values, "0:39", "0:12"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert len(head) <= 79


def test_a_file_gets_a_line_in_five_seconds_at_most_and_the_last(now, capsys):
    trained(now, epochs=20, seconds=0.3)
    epochs = [int(line.split()[1].partition("/")[0]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert epochs == [1, 6, 11, 16, 20]
    trained(now, epochs=20, seconds=0.3, stop_after=3)
    assert capsys.readouterr().out.splitlines()[-1].split()[1] == "3/20"


def test_without_a_second_launch_no_time_is_guessed(now, capsys):
    trained(now, epochs=1, launches=1)
    assert capsys.readouterr().out.split()[-1] == "-"


def test_a_terminal_gets_every_line_and_its_cursor_back(now, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    trained(now, epochs=20, seconds=0.3)
    shown = screen.getvalue()
    assert len(re.findall(r"final +\d+/20 +-1234.57", shown)) == 20
    hidden, back = shown.rfind("\x1b[?25l"), shown.find("\x1b[?25h")
    assert hidden < back < shown.find("final ")  # from the first line on


def test_a_log_has_no_control_characters_even_if_colours_are_forced(now, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    trained(now, epochs=2)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.fixture
def runs(tmp_path):
    """Makes a run with these settings, in which a gate was learned, and which was or was not evaluated."""

    def make(name, metrics=None, method="ldiaf", checksums=None, **settings):
        folder = RunFolder(tmp_path / name)
        folder.create(Config(method=method, num_nodes=2, structure_epochs=1, **settings), checksums or {})
        rows = [ROW | {"phase": phase, "epoch": 1, "seconds": 40.0} for phase in ("structure", "final")]
        folder.write_history(rows)
        edge = {"parent": 2, "child": 1, "kept": True, "nats": 1.0, "stderr": 0.1}
        folder.write_gates([{"epoch": 1, "probs": [[0, 0.9], [0, 0]]}], [[0, 1], [0, 0]], [edge])
        if metrics:
            folder.metrics_file.write_text(metrics)
        return folder

    return make


METRICS = """{"test_elbo": -81.234, "test_elbo_stderr": 0.5, "test_log_likelihood": -79.5,
"test_log_likelihood_stderr": null, "num_importance_samples": 100, "test_bits_per_dim": 0.14629}"""


def test_runs_side_by_side_show_what_differs_and_what_came_out(runs):
    table = comparison.table([runs("a", METRICS), runs("b", node_dim=8, encoder_units=(32, 16))])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    found = {name: values for name, *values in cells}
    assert found[""] == ["a", "b"]
    assert found["node_dim"] == ["16", "8"]
    assert found["encoder_units"][1] == "32,16"
    assert "seed" not in found
    assert found["best validation ELBO, nats"] == ["-80.13", "-80.13"]
    assert found["test ELBO, nats"] == ["-81.23 +- 0.50", "not evaluated"]
    assert found["test log-likelihood, nats"] == ["-79.50 (S = 100)", "not evaluated"]
    assert found["the same, bits per dimension"] == ["0.1463", "not evaluated"]
    assert found["edges"] == ["z2->z1", "z2->z1"]
    assert found["live nodes"] == ["1 of 2", "1 of 2"]
    assert found["time of all epochs"] == ["1:20", "1:20"]
    assert found["epochs trained"] == ["1 of 200 (not finished)"] * 2
    assert len({len(line) for line in table.splitlines()}) == 1


def test_numbers_of_earlier_weights_are_not_shown(runs):
    folder = runs("a", METRICS.replace("{", '{"best_checksum": 1, '))
    folder.best.parent.mkdir()
    folder.best.write_bytes(b"others")
    assert comparison.table([folder, runs("b")]).count("not evaluated") == 6
    folder.metrics_file.write_text(METRICS.replace("{", f'{{"best_checksum": {folder.best_checksum()}, '))
    assert comparison.table([folder, runs("c")]).count("not evaluated") == 3


def test_a_setting_that_a_method_has_no_use_for_is_a_dash(runs):
    table = comparison.table([runs("a", method="graph_vae"), runs("b", flow_units=(8, 8))])
    found = {name.strip(): [value.strip() for value in values] for name, *values in
             (line.strip("|").split("|") for line in table.splitlines())}  # fmt: skip
    assert found["flow_units"] == ["-", "8,8"]
    assert found["method"] == ["graph_vae", "ldiaf"]


def test_runs_of_other_images_do_not_compare(runs):
    ours, theirs = runs("a", dataset="digits", binarization="threshold"), runs("b", dataset="mnist")
    with pytest.raises(ConfigError, match=r"^Runs must be of the same images and binarisation .* digits .* and mnist"):
        comparison.table([ours, theirs])
    with pytest.raises(ConfigError, match=r"digits .* with other test images"):
        comparison.table([runs("d", checksums={"test": 1}), runs("e", checksums={"test": 2})])
    with pytest.raises(ConfigError, match=r"digits .* with another image_size"):
        comparison.table(
            [runs("f", dataset="digits", image_size=(8, 8)), runs("g", dataset="digits", image_size=(4, 4))]
        )
    with pytest.raises(ConfigError, match="threshold"):
        comparison.histories([ours, runs("c", dataset="digits", binarization="dynamic")])


def test_the_same_images_compare_whatever_they_are_called(runs):
    files = "sub/pictures", "sub/pictures/", "/home/me/pictures", "moved.npz"
    folders = [runs(f"{i}", dataset=name, checksums={"test": 7}) for i, name in enumerate(files)]
    assert "val" in comparison.table(folders)
    with pytest.raises(ConfigError, match=r"Received: moved.npz .* and pictures"):
        comparison.table([runs("a", dataset=files[2]), runs("b", dataset=files[3])])


def test_a_run_without_an_epoch_of_the_final_phase_is_one_sentence(runs):
    folder = runs("a")
    folder.write_history([])
    with pytest.raises(FileError, match="must hold a run whose final phase has begun"):
        comparison.table([runs("b"), folder])


def test_runs_are_called_by_as_much_of_their_paths_as_tells_them_apart(tmp_path):
    folders = [RunFolder(tmp_path / name) for name in ("x/run", "y/run")]
    assert comparison.names(folders) == ["x/run", "y/run"]


def test_a_run_twice_or_one_with_damaged_files_is_one_sentence(runs):
    folder, other = runs("a", METRICS), runs("b")
    with pytest.raises(ConfigError, match="Runs must be different"):
        comparison.table([folder, folder])
    for file, content in (
        (folder.metrics_file, "[1]"), (folder.metrics_file, '{"test_elbo": 1}'), (folder.gates_file, '{"epochs": []}'),
    ):  # fmt: skip
        kept = file.read_text()
        file.write_text(content)
        with pytest.raises(FileError, match="must be what a run wrote"):
            comparison.table([folder, other])
        file.write_text(kept)


def test_runs_that_may_have_other_validation_images_are_told(runs):
    assert "other validation images" in comparison.table([runs("a"), runs("b", seed=1)])
    assert "other validation images" not in comparison.table([runs("c"), runs("d", epochs=3)])
    ours, alike, others = (runs(f"{num}", checksums={"valid": num // 2}, seed=num) for num in (2, 3, 4))
    assert "other validation images" not in comparison.table([ours, alike])
    assert "other validation images" in comparison.table([ours, others])


def test_the_command_draws_the_curves_and_leaves_a_run_s_own_alone(runs, tmp_path, monkeypatch, capsys):
    folders = runs("a"), runs("b")
    line = ["compare", *(str(folder.path) for folder in folders), f"--out={tmp_path / 'c.png'}"]
    monkeypatch.setattr(sys, "argv", line)
    cli.run(compare.main, "", compare.FLAGS, others=True)
    assert "| best validation ELBO, nats" in capsys.readouterr().out
    expected = pictures.draw_histories(comparison.histories(folders))
    assert (tmp_path / "c.png").read_bytes() == pictures.as_png(expected)


def test_curves_of_two_runs_are_in_one_picture(runs):
    histories = comparison.histories([runs("a"), runs("b")])
    assert list(histories) == ["a", "b"]
    picture = pictures.draw_histories(histories)
    assert Image.fromarray(picture).mode == "RGB"
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)}) > 10
