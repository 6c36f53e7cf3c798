"""What XLA compiled is kept for the next run, which uses what is still as it was written."""

import atexit
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import zlib

# Programs are kept up to this many bytes, and only where ten times as many are free.
_MOST_BYTES = 500_000_000
_CHECKSUMS = "checksums.json"


def keep() -> None:
    """Lets TensorFlow keep its compiled programs, so that the same training starts sooner the next time.

    To be called before TensorFlow is imported. The folder is below $XDG_CACHE_HOME or ~/.cache, one for each version
    of TensorFlow and kind of processor; a cache that the user has set stays. Without a folder that can be written,
    nothing is kept.
    """
    given = os.environ.get("TF_XLA_FLAGS", "")
    folder = _folder()
    if "persistent_cache_directory" in given or re.search(r"\s", str(folder)) or not folder.is_absolute():
        return  # no user has a home where it would be relative
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < 10 * _MOST_BYTES:
            return
        _drop_doubtful(folder)
    except (OSError, RuntimeError):
        return
    atexit.register(_write_checksums, folder)
    os.environ["TF_XLA_FLAGS"] = f"{given} --tf_xla_persistent_cache_directory={folder}".strip()


def _folder():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        processor = "".join(sorted(set(re.findall(r"^(?:model name|flags|Features)\s*:.*", text, re.MULTILINE))))
    except OSError:
        processor = platform.processor()
    kind = hashlib.sha256(f"{platform.machine()} {processor}".encode()).hexdigest()[:12]
    return pathlib.Path(cache) / "tf_ldiaf" / f"xla-{importlib.metadata.version('tensorflow')}-{kind}"


def _drop_doubtful(folder):
    """Removes programs that no process vouched for, that changed since, and the oldest beyond `_MOST_BYTES`.

    TensorFlow takes a truncated program for the end of the training data.
    """
    try:
        expected = dict(json.loads((folder / _CHECKSUMS).read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        expected = {}
    total = 0
    for file in sorted(_programs(folder), key=lambda file: file.stat().st_mtime, reverse=True):
        total += file.stat().st_size
        if total > _MOST_BYTES or expected.get(file.name) != _checksum(file):
            file.unlink(missing_ok=True)


def _write_checksums(folder):
    """At the end of a process, which has used the programs: what the next one may use."""
    scratch = folder / f"{_CHECKSUMS}.{os.getpid()}"
    try:
        scratch.write_text(json.dumps({file.name: _checksum(file) for file in _programs(folder)}))
        os.replace(scratch, folder / _CHECKSUMS)
    except OSError:  # then they are compiled again
        scratch.unlink(missing_ok=True)


def _programs(folder):
    return [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(_CHECKSUMS)]


def _checksum(file):
    return zlib.crc32(file.read_bytes())
