"""The run folder: what a training leaves behind, and how it is found again."""

import contextlib
import csv
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence

from tf_ldiaf import paths
from tf_ldiaf.config import Config
from tf_ldiaf.errors import ConfigError, FileError
from tf_ldiaf.results.files import SCRATCH, write_atomically
from tf_ldiaf.results.provenance import git_commit, versions

_PICTURES = ("curves.png", "graph.png", "samples.png", "reconstructions.png", "nodes.png")
_OF_A_RUN = ("config.json", "history.csv", "gates.json", "report.md", "metrics.json")
# Beside TensorBoard's events, whose names begin alike: what its Projector shows.
CODES, THUMBNAILS = "codes.tsv", "thumbnails.png"
_KEPT = (CODES, THUMBNAILS, "projector_config.pbtxt", "best.keras", "last.keras", "previous.keras")
# What a file system says that knows no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class RunFolder:
    """Paths and small files of one run.

        config.json              settings, versions, git commit
        history.csv              one row an epoch
        gates.json               gate probabilities per epoch, the final adjacency, what its edges were worth
        checkpoints/best.keras   weights of the best validation ELBO
        checkpoints/last.keras   model, optimizer and progress, from which `--resume` goes on
        checkpoints/previous.keras  the one before, for when the last is damaged
        tensorboard/             event files
        report.md                the run on one page, with its pictures: curves, graph, samples, reconstructions, and
                                 what each node of an additive decoder draws
        metrics.json             written by evaluate
        .tf_ldiaf.lock           held by the process that trains

    Args:
        path: the folder.
    """

    OF_THEIR_OWN = pathlib.Path("runs")  # holds the runs whose folder nobody named

    def __init__(self, path: str | os.PathLike):
        self.path = paths.as_path(path, "run_dir")
        self.config_file = self.path / "config.json"
        self.history_file = self.path / "history.csv"
        self.gates_file = self.path / "gates.json"
        self.best = self.path / "checkpoints" / "best.keras"
        self.last = self.path / "checkpoints" / "last.keras"
        self.previous = self.path / "checkpoints" / "previous.keras"
        self.tensorboard = self.path / "tensorboard"
        self.report_file = self.path / "report.md"
        self.curves_file = self.path / "curves.png"
        self.graph_file = self.path / "graph.png"
        self.samples_file = self.path / "samples.png"
        self.reconstructions_file = self.path / "reconstructions.png"
        self.nodes_file = self.path / "nodes.png"
        self.metrics_file = self.path / "metrics.json"
        self.lock_file = self.path / ".tf_ldiaf.lock"
        self._made: list[pathlib.Path] = []  # folders that were made for the run
        self._lock: typing.Any = None  # the file of `locked`

    @classmethod
    def of_its_own(cls, config: Config) -> "RunFolder":
        """runs/METHOD-DATA-TIME, made now, so that no other process has it.

        Raises:
            FileError: it cannot be written.
        """
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"{config.method}-{pathlib.Path(config.dataset_name).stem}-{now}"
        number = 0
        while True:
            number += 1
            folder = cls(cls.OF_THEIR_OWN / (name if number == 1 else f"{name}-{number}"))
            made = folder._missing()
            try:
                folder.path.mkdir(parents=True)
            except OSError as error:
                if os.path.lexists(folder.path):
                    continue
                raise folder._unwritable(error) from None
            folder._made = made
            return folder

    def _missing(self):
        return [folder for folder in (self.path, *self.path.parents) if not folder.exists()]

    @property
    def holds_run(self) -> bool:
        """Whether the folder's config.json is one that `create` wrote."""
        try:
            return "tf_ldiaf" in json.loads(self.config_file.read_text())["versions"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def check_new(self, overwrite: bool) -> None:
        """Says whether `create` may be called, before anything slow is done.

        Raises:
            FileError: the folder holds a run already (unless `overwrite`), or other files.
        """
        try:
            foreign = [file.name for file in self._contents() if not self._is_of_a_run(file)] if self.holds_run else []
        except OSError as error:
            raise self._unwritable(error) from None
        if foreign and overwrite:
            raise FileError(
                f"`run_dir` must hold nothing but a run to be replaced. Received: {self.path}, which holds "
                f"{', '.join(foreign[:3])} too."
            )
        if self.holds_run and not overwrite:
            raise FileError(
                f"`run_dir` must be a new folder. Received: {self.path}, which holds a run; "
                "`resume` continues it, `overwrite` replaces it."
            )
        try:
            occupied = self.path.exists() and (not self.path.is_dir() or bool(self._contents()))
        except OSError as error:
            raise FileError(
                f"`run_dir` must be a new folder. Received: {self.path} ({error.strerror or error})."
            ) from None
        if occupied and not self.holds_run:
            raise FileError(f"`run_dir` must be a new folder. Received: {self.path}, which holds other things.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder if there is none; within the block no other process can train in it.

        Folders that were made for it and are still empty in the end are removed.

        Raises:
            FileError: another process trains in it, or it cannot be written.
        """
        with contextlib.ExitStack() as held:
            try:
                made = self._made or self._missing()
                self.path.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(open(self.lock_file, "a"))
            except OSError as error:
                raise self._unwritable(error) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileError(
                    f"`run_dir` must be a folder in which no other process trains. Received: {self.path}."
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise self._unwritable(error) from None
                print(f"Warning: nothing keeps a second process from training in {self.path}: {error.strerror}.")
            else:
                self._lock = lock
            try:
                yield
            finally:
                is_ours, self._lock = self._is_in_place(), None
                with contextlib.suppress(OSError):
                    if is_ours and not self._contents():
                        for file in self._remains():
                            file.unlink(missing_ok=True)
                        for folder in made:
                            folder.rmdir()

    def check_in_place(self) -> None:
        """Says if the folder that is `locked` was moved or removed: another run may have taken its place.

        Raises:
            FileError: so it was.
        """
        if not self._is_in_place():
            raise FileError(
                f"`run_dir` must stay where it is while a process trains in it. Received: {self.path}, which was moved "
                "or removed."
            )

    def _is_in_place(self):
        try:
            return self._lock is None or os.path.samestat(os.fstat(self._lock.fileno()), self.lock_file.stat())
        except OSError:
            return self.config_file.exists()  # only the lock is gone

    def create(self, config: Config, checksums: Mapping[str, int] | None = None) -> None:
        """Makes the folder of a new run, in place of the run it may hold. Other processes are kept out by `locked`.

        Args:
            config: the settings.
            checksums: of the images of `train`, `valid` and `test`, for `evaluate` and `compare`. A set that has none
                is not compared.

        Raises:
            FileError: it cannot be written.
        """
        info = {
            "settings": config.to_json(),
            "versions": versions(),
            "git_commit": git_commit(),
            **{f"{split}_checksum": (checksums or {}).get(split) for split in ("train", "valid", "test")},
            "epochs_before": [],  # of the final phase, before each time that it was made longer
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        # A process that is killed in between leaves a run, or an empty folder.
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for old in self._contents():
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                else:
                    old.unlink()
        except OSError as error:
            raise self._unwritable(error) from None
        write_atomically(self.config_file, json.dumps(info, indent=2))

    def keep_changes(self, config: Config) -> None:
        """Writes down what may differ in a run that goes on, such as its length; errors as of `create`."""
        before, info = self.read_config(), self.read_info()
        changes = {name: getattr(config, name) for name in ("dataset", "data_dir", "epochs", "on_nonfinite")}
        changed = dataclasses.replace(before, **changes)
        if changed != before:
            longer = [before.epochs] if changed.epochs != before.epochs else []
            info |= {"settings": changed.to_json(), "epochs_before": [*info.get("epochs_before", []), *longer]}
            write_atomically(self.config_file, json.dumps(info, indent=2))

    def goes_on(self) -> None:
        """Removes what says of a finished training what may soon not be so."""
        self.report_file.unlink(missing_ok=True)
        try:
            says_of_what = "best_checksum" in self.read_metrics()
        except (FileError, TypeError):  # none, or damaged
            says_of_what = False
        if not says_of_what:
            self.metrics_file.unlink(missing_ok=True)

    def check_pictures(self) -> None:
        """Says if a picture that the report would replace is not one of ours.

        Raises:
            FileError: so it is.
        """
        for file in (self.path / name for name in _PICTURES):
            if file.exists() and not paths.is_ours(file):
                raise FileError(
                    f"`run_dir` must leave the name {file.name} to the report. Received: {file}, another picture."
                )

    @property
    def can_be_written(self) -> bool:
        """Whether files can be made in the folder."""
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=self.path):
            return True
        return False

    def _contents(self):
        """All but the `_remains`; config.json, by which a run is known, last."""
        files = [file for file in self.path.iterdir() if file not in self._remains()]
        return sorted(files, key=lambda file: file == self.config_file)

    def _is_of_a_run(self, file):
        if file.name in ("checkpoints", "tensorboard"):
            within = [path for path in file.rglob("*") if not path.is_dir()]
            return all(path.name.startswith("events.") or path.name.removeprefix(SCRATCH) in _KEPT for path in within)
        is_part = file.name.startswith(SCRATCH) and file.name.removeprefix(SCRATCH) in _PICTURES
        return is_part or file.name.removeprefix(SCRATCH) in _OF_A_RUN or paths.is_ours(file)

    def _remains(self):
        """What a process that was killed before there was a run may have left."""
        return self.lock_file, self.config_file.with_name(SCRATCH + self.config_file.name)

    def _unwritable(self, error):
        return FileError(
            f"`run_dir` must be a folder that can be written. Received: {self.path} ({error.strerror or error})."
        )

    def read_config(self) -> Config:
        """The run's settings.

        Raises:
            FileError: the folder does not hold a run, or its config.json cannot be used.
        """
        settings = self._read_json(self.config_file).get("settings")
        if not isinstance(settings, dict):
            raise FileError(f"{self.config_file} must hold the settings of a run. Received: one without settings.")
        try:
            return Config.from_json(settings)
        except ConfigError as error:
            raise FileError(f"{self.config_file} must hold the settings of a run. Received: {error}") from None

    def read_gates(self) -> dict:
        """What `write_gates` wrote."""
        gates = self._read_json(self.gates_file)
        if not isinstance(gates, dict) or not isinstance(gates.get("epochs"), list):
            raise FileError(f"{self.gates_file} must hold the gates of a run. Received: other JSON.")
        return gates

    def read_metrics(self) -> dict:
        return self._read_json(self.metrics_file)

    def is_evaluated(self) -> bool:
        """Whether there is what `evaluate` found, and of the weights that are the best now."""
        if not self.metrics_file.is_file():
            return False
        metrics = self.read_metrics()
        return not isinstance(metrics, dict) or metrics.get("best_checksum") in (None, self.best_checksum())

    def best_checksum(self) -> int | None:
        """Of the file of the best weights; None without one."""
        return zlib.crc32(self.best.read_bytes()) if self.best.is_file() else None

    def read_info(self) -> dict:
        """All of config.json: settings, versions, git commit."""
        return self._read_json(self.config_file)

    def _read_json(self, file):
        if not self.holds_run:
            raise FileError(
                f"`run_dir` must be the folder of a run. Received: {self.path}, which has no config.json of a run."
            )
        try:
            return json.loads(file.read_text())
        except FileNotFoundError:
            raise FileError(f"{self.path} must hold {file.name}. Received: a run without it.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{file} must be readable JSON. Received: {error}.") from None

    def read_history(self) -> list[dict]:
        """Rows of history.csv: `phase` as text, all else as numbers."""
        if not self.history_file.is_file():
            return []
        try:
            with open(self.history_file, newline="") as file:
                return [
                    {key: value if key == "phase" else float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise FileError(f"{self.history_file} must be the history of a run. Received: {error}.") from None

    def write_history(self, rows: list[dict]) -> None:
        self.check_in_place()
        lines = []
        if rows:
            lines = [",".join(rows[0]), *(",".join(_cell(value) for value in row.values()) for row in rows)]
        write_atomically(self.history_file, "".join(line + "\n" for line in lines))

    def write_gates(
        self, epochs: list[dict], adjacency: list[list[float]] | None = None, edges: Sequence[dict] = ()
    ) -> None:
        """gates.json.

        Args:
            epochs: {epoch, probs} of each epoch in which gates were learned.
            adjacency: [N, N], adjacency[child][parent], once the graph is fixed.
            edges: of those that could be learned: parent, child, whether it was kept and why; what it was worth.
        """
        self.check_in_place()
        write_atomically(self.gates_file, json.dumps({"epochs": epochs, "adjacency": adjacency, "edges": list(edges)}))


def best_row(rows: list[dict], phase: str) -> typing.Any:
    """The row of a history with the best validation ELBO of a phase; None before its first epoch."""
    return max((row for row in rows if row["phase"] == phase), key=lambda row: row["val_elbo"], default=None)


def _cell(value):
    return value if isinstance(value, str) else str(int(value)) if float(value).is_integer() else repr(float(value))
