"""Checkpoints: each is whole or not there, verified when it is read, and the one before is kept."""

import contextlib
import errno
import json
import pathlib
import sys
import typing
import warnings
import zipfile
from collections.abc import Iterator

import keras

from tf_ldiaf.errors import CheckpointError, UnreadableError
from tf_ldiaf.execution import stopping
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results.files import replacing
from tf_ldiaf.results.run_folder import RunFolder

_PROGRESS = "progress.json"
_SECONDS_WITHOUT = 60.0  # of training, after which a run has checkpoints
# What a disk, a limit or a permission may say of an undamaged file. (Keras unpacks archives in a temporary folder.)
_NOT_DAMAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
_NOT_DAMAGE |= {errno.ENOMEM, errno.EIO}


class Progress(typing.NamedTuple):
    """How far a run has come: with its settings and the state of model and optimizer, all that it needs to go on."""

    phase: str  # "structure" or "final"
    epoch: int  # epochs of the phase that are finished
    launch: int  # launches of the next epoch that are done
    counters: list  # what is counted over an epoch, after them
    rows: list  # of the history, all phases
    gate_epochs: list  # {epoch, probs} of each epoch of the structure phase
    image_shape: list  # [H, W]
    images: int  # checksum of what is trained and validated on
    measured: list  # the `structure.Measured` of the edges that were learned, as lists
    edges: list | None  # pairs (parent, child) that are left of them, once that is known


def write(model: LDIAF, progress: Progress, folder: RunFolder) -> None:
    """Makes model, optimizer and progress the folder's last checkpoint, and the last one the previous.

    Raises:
        FileError: the folder cannot be written, or was moved; its checkpoints stay as they are.
    """
    folder.check_in_place()
    with replacing(folder.last, keep_as=folder.previous) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(_PROGRESS, json.dumps(progress._asdict()))


def write_best(model: LDIAF, folder: RunFolder) -> None:
    """Makes these weights the best; errors as of `write`."""
    folder.check_in_place()
    with replacing(folder.best) as scratch:
        model.save(scratch)


def read(folder: RunFolder, mends: bool = True) -> tuple[pathlib.Path, Progress] | None:
    """The last checkpoint that is undamaged, for `load_state`, and what it says of the run; None if there is none yet.

    Args:
        folder: the run.
        mends: whether it says on stderr if that is not the last one written, and removes that.

    Raises:
        CheckpointError: all are damaged; or there is none of a run that has trained for longer than until the first.
        UnreadableError: nobody can say whether one is.
    """
    if not folder.last.exists() and not folder.previous.exists():
        seconds = sum(row.get("seconds", 0.0) for row in folder.read_history())
        if folder.report_file.exists() or seconds > _SECONDS_WITHOUT:
            raise CheckpointError(
                f"`run_dir` must hold {folder.last.name} or {folder.previous.name} in its checkpoints to be resumed. "
                f"Received: {folder.path}, which has lost them; `overwrite` begins anew."
            )
        return None
    damage = []
    for path in (folder.last, folder.previous):
        try:
            progress = _read_progress(path)
        except UnreadableError:
            raise
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage and mends:
            print(f"Warning: {damage[0]} Going on from {path.name}.", file=sys.stderr)
            folder.last.unlink(missing_ok=True)  # else it would become the previous one
        return path, progress
    raise CheckpointError(" ".join(damage))


def load_state(model: LDIAF, path: pathlib.Path) -> None:
    """Puts the weights and the optimizer's variables of a checkpoint into a model that is compiled and built.

    Raises:
        CheckpointError: they are of a model with other settings, or damaged.
        UnreadableError: as of `load`.
    """
    # Keras would take Ctrl-C for damage, and only warns of an optimizer with other variables.
    with stopping.deferred(), _readable(path, " of the run's settings"), warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping variable loading")
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)


def check_image_shape(of_model: tuple[int, ...], of_data: tuple[int, ...], dataset: str) -> None:
    """Says if the data are not what a run's model is for.

    Raises:
        CheckpointError: their images have another shape.
    """
    if of_model != of_data:
        raise CheckpointError(
            f"`run_dir` must hold a model of {of_data} images, as {dataset} has now. Received: one of {of_model}."
        )


def load(path: pathlib.Path, compile: bool = True) -> LDIAF:
    """A model from a Keras archive, after every checksum in it was verified.

    Raises:
        CheckpointError: it is missing, damaged, or not of this package.
        UnreadableError: the machine would not let it be read.
    """
    _verify(path)
    with _readable(path):
        model: typing.Any = keras.models.load_model(path, compile=compile)
        return model


def _read_progress(path):
    _verify(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return Progress(**json.loads(archive.read(_PROGRESS)))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must say how far its run has come. Received: {error}.") from None


def _verify(path):
    """Errors as of `load`."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} with a wrong checksum")
        saved = json.loads(archive.read("config.json"))
        kind, name = saved["class_name"], saved["registered_name"]
    if name != keras.saving.get_registered_name(LDIAF):
        raise CheckpointError(f"{path} must be a checkpoint of this package. Received: a {kind}.")


@contextlib.contextmanager
def _readable(path, of="") -> Iterator[None]:
    """Whatever fails in the block was the archive's fault, or the machine's."""
    try:
        yield
    except Exception as error:  # there is no end of what readers make of a damaged archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NOT_DAMAGE:
            raise UnreadableError(f"{path} must be readable. Received: {reason}.") from None
        raise CheckpointError(f"{path} must be an undamaged checkpoint{of}. Received: {reason}.") from None
