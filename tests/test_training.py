"""Training and recorder: both phases, what is kept of them, and that a killed run ends as an uninterrupted one."""

import dataclasses
import json
import shutil
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_cli import contents

from tf_ldiaf import Config, data
from tf_ldiaf.errors import CheckpointError, ConfigError, NonFiniteError
from tf_ldiaf.layers.gates import most_probable_graph
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import checkpoints, evaluation, pictures, saved_model
from tf_ldiaf.results.run_folder import RunFolder, best_row
from tf_ldiaf.training import phases as training
from tf_ldiaf.training import recorder
from tf_ldiaf.training.recorder import Recorder

SMALL = {"limit_train": 128, "batch_size": 32, "learning_rate": 0.02}


def train(folder):
    """Begins or continues a run."""
    config = folder.read_config()
    training.train(config, data.load_training(config, config.seed), folder)


def validate(folder, model):
    """The validation ELBO that the run would have written for `model`."""
    config = folder.read_config()
    batches = data.evaluation_batches(data.load_training(config, config.seed).valid, training._VALIDATION_BATCH)
    model.compile(seed=config.seed)
    return model.evaluate(batches, verbose=0, return_dict=True)["elbo"]


def without_speed(rows):
    return [
        {name: value for name, value in row.items() if name not in ("images_per_second", "seconds")} for row in rows
    ]


@pytest.fixture(scope="module")
def config(tiny):
    """Everything that a checkpoint must carry: averaged weights, learned gates, schedules, fresh draws of pixels."""
    return tiny(
        "graph_vae", num_nodes=2, initial_gate_prob=0.9, structure_epochs=2, epochs=2, binarization="dynamic",
        ema_decay=0.9,
        optimizer="adamw", weight_decay=1e-3, kl_warmup_epochs=1, steps_per_execution=1, **SMALL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """An uninterrupted run."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "whole")
    folder.create(config)
    train(folder)
    return folder


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A run of a plain VAE that early stopping ended: its learning rate is far too large."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "stopped")
    settings = SMALL | {"epochs": 30, "early_stopping_patience": 2, "learning_rate": 0.5}
    folder.create(tiny("vae", learning_rate_schedule="constant", **settings))
    train(folder)
    return folder


def test_both_phases_have_their_rows(run):
    rows = run.read_history()
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("structure", 1), ("structure", 2), ("final", 1), ("final", 2),
    ]  # fmt: skip
    assert [row["temperature"] for row in rows[:2]] == [1, 1]  # the first epoch that has gates is the second
    assert [row["kl_weight"] for row in rows] == [0.5, 1, 0.5, 1]
    # Cosine over 8 steps of the final phase: half after 4, nothing after 8. While the graph is learned it falls twice,
    # and the next step's rate is shown.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.02, 0.02, 0.01, 0], abs=1e-8)
    assert all(row["images_per_second"] > 0 for row in rows)


def test_history_has_the_same_terms_of_training_and_validation(run):
    [names] = {tuple(row) for row in run.read_history()}
    terms = {"elbo", "reconstruction", "kl", "kl_node_1", "kl_node_2"}
    others = {"phase", "epoch", "gradient_norm", "learning_rate", "temperature", "kl_weight", "images_per_second"}
    others |= {"nonfinite_steps", "seconds"}
    assert set(names) == terms | {f"val_{name}" for name in terms} | {"val_active_units"} | others
    for row in run.read_history():
        for prefix in ("", "val_"):
            # The float32 means of a sum and of its parts agree to 1e-3 nats.
            kl = sum(row[f"{prefix}kl_node_{n}"] for n in (1, 2))
            assert row[f"{prefix}kl"] == pytest.approx(kl, abs=1e-3)
            assert row[f"{prefix}elbo"] == pytest.approx(row[f"{prefix}reconstruction"] - kl, abs=1e-3)
        assert row["gradient_norm"] > 0
        assert 0 <= row["val_active_units"] <= 4


def test_learned_gates_are_kept_per_epoch_and_then_fixed(run):
    gates = run.read_gates()
    assert [epoch["epoch"] for epoch in gates["epochs"]] == [1, 2]
    probs = [np.array(epoch["probs"]) for epoch in gates["epochs"]]
    assert all(p.shape == (2, 2) and (np.triu(p, k=1) == p).all() for p in probs)
    assert not np.array_equal(*probs)
    assert not most_probable_graph(probs[0]).any()  # all are shut
    graph = np.array(gates["adjacency"])
    [edge] = gates["edges"]
    assert (edge["parent"], edge["child"], edge["gate_prob"]) == (2, 1, probs[-1][0, 1])
    is_worth = edge["nats"] > max(0.05, 2 * edge["stderr"])
    assert edge["kept"] == (graph[0, 1] == 1) == is_worth
    assert edge["why"] == ("worth its price" if is_worth else "not worth its price")
    for file in (run.best, run.last):
        assert np.array_equal(keras.models.load_model(file, compile=False).gates.fixed, graph)


def test_best_checkpoint_has_the_averaged_weights_of_the_best_epoch(run):
    best = best_row(run.read_history(), "final")
    assert validate(run, evaluation.load_best(run)) == pytest.approx(best["val_elbo"], abs=1e-3)
    last = validate(run, keras.models.load_model(run.last))
    assert abs(last - best["val_elbo"]) > 0.01  # what training goes on from is not averaged


def test_report_and_tensorboard_are_written(run):
    report = run.report_file.read_text()
    assert "# graph_vae on digits" in report
    assert f"python -m tf_ldiaf.evaluate --run_dir={run.path}" in report
    assert f"{best_row(run.read_history(), 'final')['val_elbo']:.3f} nats" in report
    assert f"]({run.curves_file.name})" in report
    assert run.curves_file.read_bytes() == pictures.as_png(pictures.draw_curves(run.read_history()))
    for file in (run.curves_file, run.graph_file, run.samples_file, run.reconstructions_file):
        assert f"]({file.name})" in report
    best = evaluation.load_best(run)
    assert run.samples_file.read_bytes() == pictures.as_png(pictures.grid(best.sample(64, seed=0)["probs"]))
    for part in ("train", "validation"):
        assert list((run.tensorboard / part).glob("events.*"))


def test_the_projector_shows_each_code_beside_its_image(run):
    folder, config = run.tensorboard / "validation", run.read_config()
    valid = data.load_training(config, config.seed).valid
    codes = np.loadtxt(folder / "codes.tsv", delimiter="\t")
    assert np.allclose(codes, evaluation.load_best(run).encode(valid).numpy().reshape(len(valid), -1), atol=1e-3)
    sprite = 255 - np.asarray(Image.open(folder / "thumbnails.png"))
    columns, last = sprite.shape[1] // 8, len(valid) - 1
    top, left = 8 * (last // columns), 8 * (last % columns)
    assert np.array_equal(sprite[top : top + 8, left : left + 8], 255 * valid[last])
    assert "single_image_dim: 8" in (folder / "projector_config.pbtxt").read_text()


def test_a_graph_that_is_given_is_trained_with_at_once(tiny, tmp_path):
    folder = RunFolder(tmp_path / "given")
    folder.create(tiny("graph_vae", edges="3-1,2-1", **SMALL))
    train(folder)
    assert [row["phase"] for row in folder.read_history()] == ["final"]
    graph = [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert folder.read_gates() == {"epochs": [], "adjacency": graph, "edges": []}
    assert np.array_equal(evaluation.load_best(folder).gates.fixed, graph)
    assert "Given graph, parent -> child: z2 -> z1, z3 -> z1." in folder.report_file.read_text()
    saved_model.export(folder, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "fixed: z2 -> z1 (1.00), z3 -> z1 (1.00)." in card
    assert " --edges=2-1,3-1 " in card
    assert "structure_epochs" not in card
    before = folder.last.read_bytes()
    train(folder)  # as finished
    assert folder.last.read_bytes() == before


def test_early_stopping_keeps_the_best_epoch(stopped):
    rows = stopped.read_history()
    best = best_row(rows, "final")
    assert len(rows) < 30
    assert rows[-1]["epoch"] == best["epoch"] + 2
    assert validate(stopped, evaluation.load_best(stopped)) == pytest.approx(best["val_elbo"], abs=1e-3)


@pytest.mark.parametrize("name", ["run", "stopped"])
def test_a_finished_run_resumes_as_finished(name, request, monkeypatch):
    folder = request.getfixturevalue(name)
    files = [folder.history_file, folder.gates_file, folder.best, folder.last, folder.report_file]
    files.append(folder.curves_file)
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(LDIAF, "fit", None)
    train(folder)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("values", "patience", "stop"),
    [([-3], 1, False), ([-3, -4], 1, True), ([-3, -4], 2, False), ([-3, -2], 1, False), ([-3, -4, -5], 0, False),
     ([-3, -3], 1, True), ([-3, -4, -5], 2, True)],
)  # fmt: skip
def test_when_to_stop(values, patience, stop):
    earlier = [{"phase": "structure", "epoch": 9, "val_elbo": -1}]
    rows = earlier + [{"phase": "final", "epoch": i + 1, "val_elbo": value} for i, value in enumerate(values)]
    assert recorder.stopped_early(rows, "final", Config(early_stopping_patience=patience)) is stop
    assert best_row(rows, "final")["val_elbo"] == max(values)
    assert best_row(earlier, "final") is None


def test_epochs_without_edges_do_not_stop_a_structure_phase():
    """They are better here than all that follow, until patience counts from the first with gates."""
    config = Config(early_stopping_patience=2, structure_epochs=6)
    values = [-1, -1.1, -1.2, -9, -8, -8.5]
    rows = [{"phase": "structure", "epoch": i + 1, "val_elbo": value} for i, value in enumerate(values)]
    assert not any(recorder.stopped_early(rows[:num], "structure", config) for num in range(1, 7))
    assert recorder.stopped_early([*rows, rows[0] | {"epoch": 7, "val_elbo": -8.6}], "structure", config)


def stop(monkeypatch, phase, epoch, moment):
    """Ends a run in an epoch: after so many launches, asked to; or killed "before checkpoint", "between" best and last,
    or "after" both; or after an edge was "measured"."""
    inside = [False]
    begin, launched, ended = (
        getattr(Recorder, f"on_{name}") for name in ("epoch_begin", "train_batch_end", "epoch_end")
    )
    write = checkpoints.write

    def beginning(self, at, logs=None):
        inside[:] = [(self.phase, at + 1) == (phase, epoch)]
        begin(self, at, logs)

    def launching(self, batch, logs=None):
        if inside[0] and batch + 1 == moment:
            self.request.number = signal.SIGTERM
        launched(self, batch, logs)

    def writing(model, progress, folder):
        if inside[0] and moment in ("before checkpoint", "between"):
            raise KeyboardInterrupt
        write(model, progress, folder)
        if moment == "measured" and progress.measured:
            raise KeyboardInterrupt

    def ending(self, at, logs=None):
        if inside[0] and moment == "before checkpoint":
            self.best_is_new = False
        ended(self, at, logs)
        if inside[0] and moment == "after":
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "on_epoch_begin", beginning)
    monkeypatch.setattr(Recorder, "on_train_batch_end", launching)
    monkeypatch.setattr(Recorder, "on_epoch_end", ending)
    monkeypatch.setattr(checkpoints, "write", writing)


MOMENTS = [("structure", 2, "measured"), ("final", 2, 3)]
OTHER_MOMENTS = [
    ("structure", 1, 2), ("structure", 2, 3), ("structure", 2, 4), ("structure", 2, "before checkpoint"),
    ("final", 1, "before checkpoint"), ("final", 2, "between"),
]  # fmt: skip


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(OTHER_MOMENTS, marks=pytest.mark.long)])
def test_a_stopped_run_ends_like_an_uninterrupted_one_to_the_bit(moments, config, run, tmp_path):
    folder = RunFolder(tmp_path / "stopped")
    folder.create(config)
    for moment in moments:
        with pytest.MonkeyPatch.context() as monkeypatch:
            in_epoch = isinstance(moment[-1], int)
            monkeypatch.setattr(recorder, "_SECONDS_BETWEEN_CHECKPOINTS", 1e9 if in_epoch else -1)
            stop(monkeypatch, *moment)
            with pytest.raises(KeyboardInterrupt):
                train(folder)
        if in_epoch:
            _, progress = checkpoints.read(folder)
            finished = moment[2] == 4
            assert progress[:3] == (moment[0], moment[1] if finished else moment[1] - 1, 0 if finished else moment[2])
        file = max((folder.tensorboard / "train").glob("events.*"), key=lambda file: file.stat().st_mtime)
        file.write_bytes(file.read_bytes() + file.read_bytes()[:20])  # as if it had died while it wrote
    train(folder)

    assert without_speed(folder.read_history()) == without_speed(run.read_history())
    assert folder.read_gates() == run.read_gates()
    for name in ("last", "best"):
        ours, theirs = (keras.models.load_model(getattr(f, name)) for f in (folder, run))
        for a, b in zip(ours.variables, theirs.variables, strict=True):
            assert a.path.partition("/")[2] == b.path.partition("/")[2]
            assert np.array_equal(a, b), (name, a.path)
        if name == "last":
            for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
                assert np.array_equal(a, b), (name, a.path)
    assert folder.report_file.read_text() == run.report_file.read_text().replace(str(run.path), str(folder.path))
    for part in ("train", "validation"):
        assert sorted(shown(folder.tensorboard / part)) == sorted(shown(run.tensorboard / part))


def test_a_run_of_an_earlier_version_is_not_resumed(run, monkeypatch):
    path, progress = checkpoints.read(run)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in progress.rows]
    monkeypatch.setattr(checkpoints, "read", lambda *_, **__: (path, progress._replace(rows=rows)))
    with pytest.raises(CheckpointError, match="must be resumed with the version that began it"):
        train(run)


def test_a_run_killed_before_its_first_checkpoint_begins_again(stopped, tmp_path):
    folder = RunFolder(tmp_path / "killed")
    folder.create(stopped.read_config())
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(recorder, "_SECONDS_BETWEEN_CHECKPOINTS", 1e9)  # none is due on a slow machine
        stop(monkeypatch, "final", 2, "after")
        with pytest.raises(KeyboardInterrupt):
            train(folder)
    assert len(folder.read_history()) == 2
    assert not folder.last.exists()
    train(folder)
    assert without_speed(folder.read_history()) == without_speed(stopped.read_history())


def shown(folder):
    """(step, tag) of all that the event files of a folder hold."""
    found = []
    for file in folder.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [(event.step, value.tag) for value in event.summary.value]
    return found


def test_a_learning_rate_that_diverges_is_one_sentence(tiny, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny("vae", **SMALL))
    monkeypatch.setattr(training, "make_optimizer", lambda *_: keras.optimizers.SGD(1e30))
    with pytest.raises(NonFiniteError, match=r"must keep training finite.*elbo.*step [1-4] of the training"):
        train(folder)
    assert not folder.best.exists()


def test_skipped_steps_are_counted_in_the_history(tiny, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny("vae", on_nonfinite="skip", steps_per_execution=1, **SMALL))
    images = data.load_training(folder.read_config(), seed=0)
    train_images = images.train.copy()
    train_images[5] = 0
    encoded = LDIAF.encoded

    def failing(model, x, training=False):  # where there is no ink
        return tf.where(tf.reduce_any(x > 0, [1, 2])[:, tf.newaxis], encoded(model, x), np.nan)

    monkeypatch.setattr(LDIAF, "encoded", failing)
    training.train(folder.read_config(), images._replace(train=train_images), folder)
    [row] = folder.read_history()
    assert row["nonfinite_steps"] == 1
    assert np.isfinite(row["elbo"])
    assert all(np.isfinite(v).all() for v in evaluation.load_best(folder).get_weights())


def test_a_run_may_go_on_with_other_handling_of_steps_that_are_not_finite(run, monkeypatch):
    monkeypatch.setattr(LDIAF, "fit", None)
    config = dataclasses.replace(run.read_config(), on_nonfinite="skip", data_dir="/elsewhere")
    training.train(config, data.load_training(config, config.seed), run)


@pytest.mark.parametrize(("name", "value"), [("node_dim", 3), ("num_nodes", 3), ("ema_decay", 0.0)])
def test_a_checkpoint_of_other_settings_is_refused(run, tmp_path, name, value):
    """config.json was changed by hand: weights of other shapes, fewer of them, and fewer of the optimizer's."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, folder.path)
    info = folder.read_info()
    info["settings"][name] = value
    folder.config_file.write_text(json.dumps(info))
    before = contents(folder.path)
    with pytest.raises(CheckpointError, match=r"last\.keras must be an undamaged checkpoint of the run's settings"):
        train(folder)
    assert contents(folder.path) == before


def test_a_run_goes_on_with_images_of_its_shape_only(run, tmp_path, images):
    with pytest.raises(
        CheckpointError, match=r"must hold a model of \(4, 8\) images, as digits has now. Received: .*8, 8"
    ):
        training.train(run.read_config(), data.TrainingImages(images(32, (4, 8)), images(9, (4, 8))), run)


@pytest.mark.parametrize(
    ("settings", "num_devices", "words"),
    [
        ({"batch_size": 10}, 2, r"`batch_size` must be a multiple of the 2 devices\. Received: 9"),
        ({"batch_size": 3}, 2, r"`batch_size` must be a multiple of the 2 devices\. Received: 3"),
        ({"channels": (0, 0, 4)}, 1, r"`channels` needs .* multiples of 4\. Received: 8 x 6, of digits"),
    ],
)
def test_what_cannot_be_trained_is_known_before_a_folder_is_made(settings, num_devices, words, tiny, images):
    strategy = types.SimpleNamespace(num_replicas_in_sync=num_devices)
    with pytest.raises(ConfigError, match=words):
        training.check(tiny(**settings), data.TrainingImages(images(9, (8, 6)), images(9, (8, 6))), strategy)
