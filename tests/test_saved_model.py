"""SavedModel, sampling and evaluation of one small trained run."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_ldiaf import LDIAF, data
from tf_ldiaf.errors import DataError, FileError
from tf_ldiaf.results import evaluation, pictures, report, sampling, saved_model
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.training import phases as training

NUM_SAMPLES = 5


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A trained run with metrics.json; two nodes and an edge."""
    config = tiny(num_nodes=2, edges="2-1", num_flow_steps=1, limit_train=256, batch_size=32, learning_rate=0.02)
    folder = RunFolder(tmp_path_factory.mktemp("run") / "ldiaf")
    folder.create(config)
    training.train(config, data.load_training(config, config.seed), folder)
    metrics = evaluation.evaluate(folder, NUM_SAMPLES, batch_size=100, seed=1)
    folder.metrics_file.write_text(json.dumps(metrics))
    return folder


@pytest.fixture(scope="module")
def model(run):
    return evaluation.load_best(run)


@pytest.fixture(scope="module")
def held_out(run):
    return data.load_test(run.read_config())


@pytest.fixture(scope="module")
def per_image(model, held_out):
    """What `evaluate` averages, with its seed and batch size."""
    return evaluation.per_image(model, held_out, NUM_SAMPLES, batch_size=100, seed=1)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "deep" / "model"
    saved_model.export(run, out)
    return out


# Evaluation


def test_evaluation_is_the_mean_over_all_test_images(run, per_image, held_out):
    metrics = run.read_metrics()
    assert len(held_out) == 359  # not a multiple of the batch size
    assert metrics["num_images"] == 359
    assert metrics["test_effective_samples"] == pytest.approx(per_image["effective_samples"].mean(), rel=1e-5)
    for name in ("elbo", "log_likelihood", "reconstruction"):
        values = per_image[name].astype("float64")
        assert values.shape == (359,)
        assert metrics[f"test_{name}"] == pytest.approx(values.mean(), abs=1e-5)
        stderr = np.sqrt(((values - values.mean()) ** 2).sum() / 358 / 359)
        assert metrics[f"test_{name}_stderr"] == pytest.approx(stderr, rel=1e-5)
    assert metrics["test_kl_per_node"] == pytest.approx(per_image["kl_per_node"].mean(axis=0).tolist(), abs=1e-5)
    assert metrics["test_kl"] == pytest.approx(sum(metrics["test_kl_per_node"]), abs=1e-4)
    assert metrics["test_elbo"] == pytest.approx(metrics["test_reconstruction"] - metrics["test_kl"], abs=1e-4)
    assert metrics["test_bits_per_dim"] == pytest.approx(-metrics["test_log_likelihood"] / 64 * np.log2(np.e))


@pytest.mark.parametrize(("effective", "num", "is_few"), [(9.9, 100, True), (10.0, 100, False), (1.0, 1, False)])
def test_a_log_likelihood_of_few_effective_samples_is_warned_of(run, effective, num, is_few):
    metrics = run.read_metrics() | {"test_effective_samples": effective, "num_importance_samples": num}
    warning = (
        "Warning: the log-likelihood has an effective sample size of 9.9 of 100. Below 10 it is too low to be quoted"
    )
    assert report.too_few_samples(metrics).startswith(warning) == is_few
    assert bool(report.too_few_samples(metrics)) == is_few
    assert re.search(
        rf"effective sample size +\| {effective:.1f} of {num}, mean over images", report.metrics_table(metrics)
    )


def test_evaluation_says_what_was_measured(run, model, per_image):
    metrics = run.read_metrics()
    expected = {"dataset": "digits", "binarization": "threshold", "method": "ldiaf", "seed": 1}
    expected |= {"num_importance_samples": NUM_SAMPLES, "latent_dimensions": 4}
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["num_parameters"] == model.count_params() - sum(v.numpy().size for v in model.non_trainable_weights)
    assert metrics["active_units"] == (per_image["innovations"].var(axis=0) > 0.01).sum()
    table = report.metrics_table(metrics)
    assert f"| {metrics['test_elbo']:.2f} +- {metrics['test_elbo_stderr']:.2f} nats" in table
    assert f"log-likelihood, S = {NUM_SAMPLES}" in table
    assert len({len(line) for line in table.splitlines()}) == 1


def test_log_likelihood_is_no_less_than_elbo(per_image):
    # Jensen, from the same draws; the tolerance is float32's.
    assert (per_image["log_likelihood"] >= per_image["elbo"] - 1e-3).all()
    assert per_image["log_likelihood"].mean() > per_image["elbo"].mean() + 1e-3


def test_batch_size_changes_nothing(model, held_out, per_image):
    other = evaluation.per_image(model, held_out, NUM_SAMPLES, batch_size=64, seed=1)
    for name, value in per_image.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_next_seed_has_other_draws_of_the_same_mean(model, held_out, per_image):
    other = evaluation.per_image(model, held_out, NUM_SAMPLES, batch_size=100, seed=2)
    difference = other["elbo"] - per_image["elbo"]
    # A paired test at 5 standard errors: a false alarm has probability 6e-7.
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(359)
    assert (difference != 0).mean() > 0.99


def test_evaluation_of_a_run_without_a_model(run, tmp_path):
    folder = RunFolder(tmp_path / "new")
    folder.create(run.read_config())
    with pytest.raises(FileError, match=r"must hold a trained model.*no checkpoint yet"):
        evaluation.evaluate(folder, 1, 100)
    with pytest.raises(FileError, match=r"must hold a trained model.*no checkpoint yet"):
        saved_model.export(folder, tmp_path / "out")
    shutil.copytree(run.path / "checkpoints", folder.path / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(FileError, match=r"must hold the history of its training.*which has none"):
        saved_model.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# SavedModel

ASK = """
import sys
for name in ("tf_ldiaf", "tensorflow_probability", "tf_keras", "keras"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
x = np.load(sys.argv[2])["x"]
seed = tf.constant(3)
answers = {}
for n in (1, 7):
    images = tf.constant(x[:n])
    answers[f"codes_{n}"] = signatures["encode"](images=images)["codes"]
    answers[f"probs_{n}"] = signatures["reconstruct"](images=images, seed=seed)["probs"]
    asked = signatures["log_likelihood"](images=images, num_importance_samples=tf.constant(20), seed=seed)
    answers[f"log_likelihood_{n}"] = asked["log_likelihood"]
    for name, value in signatures["sample"](num=tf.constant(n), seed=seed).items():
        answers[f"sample_{name}_{n}"] = value
np.savez(sys.argv[3], **{name: value.numpy() for name, value in answers.items()})
"""


def test_saved_model_needs_only_tensorflow_and_answers_like_the_model(exported, model, held_out, tmp_path):
    x = held_out[:7].astype("float32")
    np.savez(tmp_path / "in.npz", x=x)
    files = [str(exported), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", ASK, *files], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as answers:
        for n in (1, 7):
            assert np.allclose(answers[f"codes_{n}"], model.encode(x[:n]), atol=1e-5)
            assert np.allclose(answers[f"probs_{n}"], model.reconstruct(x[:n], seed=3)["probs"], atol=1e-5)
            log_likelihood = model.log_likelihood(x[:n], num_importance_samples=20, seed=3)
            assert np.allclose(answers[f"log_likelihood_{n}"], log_likelihood, atol=1e-3)
            sample = model.sample(n, seed=3)
            assert np.allclose(answers[f"sample_probs_{n}"], sample["probs"], atol=1e-5)
            assert np.array_equal(answers[f"sample_images_{n}"], sample["images"])
            assert answers[f"sample_images_{n}"].shape == (n, 8, 8)


def test_model_card_has_numbers_graph_and_settings(run, exported):
    card = (exported / "README.md").read_text()
    assert report.metrics_table(run.read_metrics()) in card
    assert "z2 -> z1 (1.00)" in card
    assert "`digits`, binarisation `threshold`" in card
    assert " ".join(run.read_config().to_flags()) in card
    for name in ("samples.png", "graph.png", "curves.png"):
        assert f"({name})" in card
        assert Image.open(exported / name).size[0] > 100
    assert not (exported.parent / "model.part").exists()


def test_model_card_without_metrics_says_so(run, model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(run.read_config())
    assert "Not measured" in report.model_card(
        folder, model.image_shape, "name", pictures.latent_graph([[0, 0], [0, 0]])
    )


def test_a_run_that_was_made_longer_says_so(run, model, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    [epochs] = {row["epoch"] for row in folder.read_history()[-1:]}
    assert report.epochs_text(folder.read_config(), folder) == f"{epochs:.0f}"
    config = dataclasses.replace(folder.read_config(), epochs=int(epochs) + 1, on_nonfinite="skip")
    before = folder.best_checksum()
    training.train(config, data.load_training(config, config.seed), folder)
    assert "The learning rate is now that of" in capsys.readouterr().out
    assert folder.read_config() == config
    text = f"{epochs + 1:.0f}, planned as {epochs:.0f} before"
    assert f"| of them in the final phase | {text} |" in folder.report_file.read_text()
    graph = pictures.latent_graph([[0, 1], [0, 0]])
    assert f"Epochs of the final phase: {text}." in report.model_card(folder, model.image_shape, "name", graph)
    assert folder.is_evaluated() == (folder.best_checksum() == before)
    assert folder.read_metrics() == run.read_metrics()


def test_a_model_is_not_exported_into_the_folder_of_a_run_s(model, exported):
    card = (exported / "README.md").read_text()
    with pytest.raises(FileError, match=r"`filepath` must be a folder with nothing but a SavedModel.*README\.md"):
        model.export(exported)
    assert (exported / "README.md").read_text() == card


def test_a_model_is_not_exported_over_one_of_another_kind(model, place, monkeypatch):
    other = tf.Module()
    other.answer = tf.function(lambda: tf.constant(1.0), input_signature=[])
    tf.saved_model.save(other, str(place / "other"))
    with pytest.raises(FileError, match=r"`filepath` must be a new folder.*which holds another SavedModel"):
        model.export(place / "other")
    monkeypatch.setenv("HOME", str(place))
    for _ in range(2):
        model.export("~/model")
    assert sampling.load(place / "model", "sample")


def test_worths_of_an_earlier_evaluation_are_kept_for_the_same_weights(run, tmp_path):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    worth, metrics = [{"parent": 2, "child": 1, "nats": 0.5, "stderr": 0.1}], run.read_metrics()
    folder.metrics_file.write_text(json.dumps(metrics | {"test_edge_worth": worth}))
    assert evaluation.with_worth(metrics, folder) == metrics | {"test_edge_worth": worth}
    others = metrics | {"best_checksum": 1}
    assert evaluation.with_worth(others, folder) == others
    folder.metrics_file.write_text("{")
    assert evaluation.with_worth(metrics, folder) == metrics


def test_an_export_into_a_link_replaces_what_it_leads_to(run, place):
    saved_model.export(run, place / "kept")
    (place / "kept" / "curves.png").unlink()
    (place / "link").symlink_to(place / "kept")
    saved_model.export(run, place / "link", overwrite=True)
    assert (place / "link").is_symlink()
    assert (place / "kept" / "curves.png").exists()


def test_edges_are_measured_with_the_training_images_of_the_run(run, tmp_path):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    info = folder.read_info()
    info["train_checksum"] = data.load_training(folder.read_config(), 0).checksums()["train"] + 1
    folder.config_file.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"must have the training images that were there.*for `edge_worth`"):
        evaluation.evaluate(folder, 1, 100, edge_worth=True)


# Sampling


def test_an_export_that_fails_leaves_the_old_model_and_nothing_else(run, exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "out")
    before = (tmp_path / "out" / "graph.json").read_bytes()
    monkeypatch.setattr(pictures, "grid", lambda *_, **__: exec("raise OSError('No space left on device')"))
    with pytest.raises(FileError, match="No space left on device"):
        saved_model.export(run, tmp_path / "out", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "graph.json").read_bytes() == before


def test_the_same_seed_writes_the_same_samples(exported, tmp_path):
    def written(name, seed):
        arrays = sampling.write_images(str(exported), str(tmp_path / name), num=6, seed=seed)
        with np.load(arrays) as file:
            return {key: file[key] for key in file.files}, (tmp_path / name).read_bytes()

    first, again, other = written("a.png", 0), written("b.png", 0), written("c.png", 1)
    assert set(first[0]) == {"probs", "images"}
    assert first[0]["images"].shape == (6, 8, 8)
    assert set(np.unique(first[0]["images"])) <= {0, 1}
    assert all(np.array_equal(first[0][name], again[0][name]) for name in first[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0]["images"], other[0]["images"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pictures.grid(first[0]["probs"]))


def test_reconstructions_stand_below_their_originals(exported, model, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (9, 8, 8)).astype("uint8")
    np.savez(tmp_path / "in.npz", x=grey)
    arrays = sampling.write_images(
        str(exported), str(tmp_path / "out.png"), num=4, seed=2, reconstruct=str(tmp_path / "in.npz")
    )
    x = (grey[:4] > 127).astype("float32")
    with np.load(arrays) as file:
        assert np.array_equal(file["originals"], x)
        assert np.allclose(file["probs"], model.reconstruct(x, seed=2)["probs"], atol=1e-5)
        probs = file["probs"]
    rows = [x[:3], probs[:3], [x[3], 0 * x[0], 0 * x[0]], [probs[3], 0 * x[0], 0 * x[0]]]
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(picture, pictures.grid(np.concatenate(rows), columns=3))


def test_rows_of_pixels_are_no_picture(place):
    rows = LDIAF(2, 2, 0, edges=[], encoder_units=[4], decoder_units=[4])
    rows.build((None, 16))
    rows.export(place / "rows")
    with pytest.raises(FileError, match=r"must draw images \(H, W\) or \(H, W, C\)\. Received: .* of \(16,\)"):
        sampling.write_images(str(place / "rows"), str(place / "a.png"), num=2, seed=0)
    assert [file.name for file in place.iterdir()] == ["rows"]


def test_images_that_do_not_fit_the_model(exported, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.tile(np.eye(28), (2, 1, 1)))
    with pytest.raises(FileError, match=r"`reconstruct` must hold images of \(8, 8\). Received: \(28, 28\)"):
        sampling.write_images(str(exported), str(tmp_path / "a.png"), 1, 0, reconstruct=str(tmp_path / "in.npz"))
    with pytest.raises(DataError, match=r"`reconstruct` must be a file that exists"):
        sampling.write_images(str(exported), str(tmp_path / "a.png"), 1, 0, reconstruct=str(tmp_path / "no.npz"))
    with pytest.raises(FileError, match="`out` must be a file that can be written"):
        sampling.write_images(str(exported), str(tmp_path / "no" / "a.png"), 1, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["in.npz"]


def test_folders_that_are_not_our_saved_model(tmp_path):
    with pytest.raises(FileError, match="`saved_model` must be a SavedModel"):
        sampling.write_images(str(tmp_path), str(tmp_path / "a.png"), 1, 0)
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(
        FileError, match=r"must be one that this version's tf_ldiaf.export wrote.*does not answer sample, reconstruct"
    ):
        sampling.write_images(str(tmp_path / "other"), str(tmp_path / "a.png"), 1, 0)
    with pytest.raises(FileError, match=r"must hold a readable graph.json"):
        sampling.write_graph(str(tmp_path / "other"), str(tmp_path / "a.png"))


def test_graph_is_written_from_parent_to_child(exported, tmp_path):
    sampling.write_graph(str(exported), str(tmp_path / "graph.json"))
    graph = nx.node_link_graph(json.loads((tmp_path / "graph.json").read_text()), edges="edges")
    assert list(graph.edges) == [("z2", "z1")]
    sampling.write_graph(str(exported), str(tmp_path / "graph.dot"))
    assert "z2 -> z1" in (tmp_path / "graph.dot").read_text()
    with pytest.raises(FileError, match="`graph` must be a file that can be written"):
        sampling.write_graph(str(exported), str(tmp_path / "no" / "graph.dot"))
