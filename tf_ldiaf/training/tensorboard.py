"""What TensorBoard shows of a run."""

import contextlib
import pathlib

import networkx as nx
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hp

from tf_ldiaf.config import Config
from tf_ldiaf.errors import FileError
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results import pictures
from tf_ldiaf.results.files import replacing
from tf_ldiaf.results.run_folder import CODES, THUMBNAILS

_NUM_SAMPLES = 36
_NUM_RECONSTRUCTIONS = 8
_NUM_CODES = 1000


class TensorBoardLog:
    """Writes scalars, pictures and hyper-parameters of one run.

    Scalars of training and validation share their names, in two writers, so that they share a plot.

    Args:
        folder: where the event files go.
        step: what they say of later steps is forgotten: the run goes on from there.

    Raises (every method):
        FileError: the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, step: int = 0):
        self.folder = folder
        with _writing(folder):
            for file in folder.glob("*/events.*"):
                _forget_after(step, file)
            self.train = tf.summary.create_file_writer(str(folder / "train"))
            self.valid = tf.summary.create_file_writer(str(folder / "validation"))

    def hyper_parameters(self, config: Config) -> None:
        """The settings, for the HParams page, which shows them beside the validation scalars."""
        settings = config.to_json()
        with self._writing(self.valid):
            hp.hparams(
                {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in settings.items() if v is not None}
            )

    def scalars(self, step: int, row: dict) -> None:
        """One row of the history; columns `val_*` go to the validation writer. Phase 0 is structure, 1 final."""
        for name, value in row.items():
            writer, tag = (self.valid, name[4:]) if name.startswith("val_") else (self.train, name)
            if tag == "epoch":
                continue
            if tag == "phase":
                value = float(value == "final")
            with self._writing(writer, step):
                tf.summary.scalar(tag.replace("kl_node_", "kl_per_node/z"), value)

    def gates(self, step: int, gate_probs: list[list[float]]) -> None:
        """The probability of every gate."""
        with self._writing(self.train, step):
            for child, parent in zip(*np.triu_indices(len(gate_probs), k=1), strict=True):
                tf.summary.scalar(f"gate_probs/z{child + 1}_given_z{parent + 1}", gate_probs[child][parent])

    def pictures(self, step: int, model: LDIAF, images: np.ndarray, graph: nx.DiGraph) -> None:
        """Samples, reconstructions (original above reconstruction) and the latent graph."""
        samples, ink = model.sample(_NUM_SAMPLES, seed=0)["probs"], model.num_values == 2
        x = model.shown(images[:_NUM_RECONSTRUCTIONS])
        pairs = tf.concat([x, model.reconstruct(x, seed=0)["probs"]], axis=0)
        with self._writing(self.valid, step):
            tf.summary.image("samples", _as_batch(pictures.grid(samples, ink=ink)))
            picture = pictures.grid(pairs, columns=_NUM_RECONSTRUCTIONS, ink=ink)
            tf.summary.image("reconstructions", _as_batch(picture))
            if len(graph) > 1:
                tf.summary.image("latent_graph", pictures.draw_graph(graph)[np.newaxis])

    def best(self, step: int, row: dict) -> None:
        """The best row of the history, for the HParams page; `step` is the run's last."""
        with self._writing(self.valid, step + 1):  # a run that goes on from its last step forgets it
            for name in ("elbo", "reconstruction", "kl"):
                tf.summary.scalar(f"best/{name}", row[f"val_{name}"])

    def codes(self, model: LDIAF, images: np.ndarray) -> None:
        """Codes of up to a thousand images, with the images as their thumbnails, for the Projector page."""
        x = model.shown(images[:_NUM_CODES])
        codes = tf.reshape(model.encode(x), [len(x), -1]).numpy()
        config = projector.ProjectorConfig()
        embedding = config.embeddings.add(tensor_name="codes", tensor_path=CODES)
        embedding.sprite.image_path = THUMBNAILS
        embedding.sprite.single_image_dim.extend(reversed(x.shape[1:3]))
        with _writing(self.folder):
            folder = self.folder / "validation"
            np.savetxt(folder / CODES, codes, fmt="%.5g", delimiter="\t")
            (folder / THUMBNAILS).write_bytes(pictures.as_png(pictures.tiles(x, ink=model.num_values == 2)))
            projector.visualize_embeddings(str(folder), config)

    def flush(self) -> None:
        """All that was said is in the files."""
        for writer in (self.train, self.valid):
            with self._writing(writer):
                writer.flush()

    def close(self) -> None:
        for writer in (self.train, self.valid):
            with self._writing(writer):
                writer.close()

    @contextlib.contextmanager
    def _writing(self, writer, step=None):
        with _writing(self.folder), writer.as_default(step):
            yield


@contextlib.contextmanager
def _writing(folder):
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{folder} must be a folder that can be written. Received: {reason}.") from None


def _as_batch(picture):
    return picture.reshape(1, *picture.shape[:2], -1)


def _forget_after(step, file):
    """Drops the events of later steps (all, if that is 0), and what a killed process left half written."""
    kept, dropped = [], False
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            is_kept = bool(step) and event.step <= step
            dropped |= not is_kept
            if is_kept:
                kept.append((record, event))
    except tf.errors.DataLossError:
        dropped = True
    if not any(event.HasField("summary") for _, event in kept):
        file.unlink()
    elif dropped:
        with replacing(file) as scratch, tf.io.TFRecordWriter(str(scratch)) as writer:
            for record, _ in kept:
                writer.write(record)
