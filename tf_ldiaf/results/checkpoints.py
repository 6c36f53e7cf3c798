"""Checkpoints: each is whole or not there, verified when it is read, and the one before is kept."""

import errno
import json
import sys
import typing
import zipfile

import keras

from tf_ldiaf.config import ConfigError
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.results.run_folder import RunFolder, replacing

_PROGRESS = "progress.json"
# What a disk, a limit or a permission may say of an undamaged file. (Keras unpacks archives in a temporary folder.)
_NOT_DAMAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
_NOT_DAMAGE |= {errno.ENOMEM, errno.EIO}


class UnreadableError(ConfigError):
    """A checkpoint that may be undamaged cannot be read."""


class Progress(typing.NamedTuple):
    """How far a run has come: with the model and its optimizer, all that it needs to go on."""

    phase: str  # "structure" or "final"
    epoch: int  # epochs of the phase that are finished
    launch: int  # launches of the next epoch that are done
    counters: list  # what is counted over an epoch, after them
    rows: list  # of the history, all phases
    gate_epochs: list  # {epoch, probs} of each epoch of the structure phase
    images: int  # checksum of what is trained and validated on


def write(model, progress: Progress, folder: RunFolder) -> None:
    """Makes model, optimizer and progress the folder's last checkpoint, and the last one the previous.

    Raises:
        ConfigError: the folder cannot be written; its checkpoints stay as they are.
    """
    with replacing(folder.last, keep_as=folder.previous) as scratch:
        model.save(scratch)
        with zipfile.ZipFile(scratch, "a") as archive:
            archive.writestr(_PROGRESS, json.dumps(progress._asdict()))


def write_best(model, folder: RunFolder) -> None:
    """Makes these weights the best; errors as of `write`."""
    with replacing(folder.best) as scratch:
        model.save(scratch)


def read(folder: RunFolder, mends: bool = True):
    """The last checkpoint that is undamaged: (model, `Progress`), or None if there was none yet.

    Args:
        folder: the run.
        mends: whether it says on stderr if that is not the last one written, and removes that.

    Raises:
        ConfigError: all are damaged.
        UnreadableError: nobody can say whether one is.
    """
    if not folder.last.exists() and not folder.previous.exists():
        return None
    damage = []
    for path in (folder.last, folder.previous):
        try:
            model, progress = load(path), _read_progress(path)
        except UnreadableError:
            raise
        except ConfigError as error:
            damage.append(str(error))
            continue
        if damage and mends:
            print(f"Warning: {damage[0]} Going on from {path.name}.", file=sys.stderr)
            folder.last.unlink(missing_ok=True)  # else it would become the previous one
        return model, progress
    raise ConfigError(" ".join(damage))


def load(path, compile=True) -> LDIAF:
    """A model from a Keras archive, after every checksum in it was verified.

    Raises:
        ConfigError: it is missing, damaged, or not of this package.
        UnreadableError: the machine would not let it be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} with a wrong checksum")
        model: typing.Any = keras.models.load_model(path, compile=compile)
    except Exception as error:  # there is no end of what readers make of a damaged archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NOT_DAMAGE:
            raise UnreadableError(f"{path} must be readable. Received: {reason}.") from None
        raise ConfigError(f"{path} must be an undamaged checkpoint. Received: {reason}.") from None
    if not isinstance(model, LDIAF):
        raise ConfigError(f"{path} must be a checkpoint of this package. Received: a {type(model).__name__}.")
    return model


def _read_progress(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return Progress(**json.loads(archive.read(_PROGRESS)))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must say how far its run has come. Received: {error}.") from None
