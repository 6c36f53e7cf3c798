"""What a run was made with."""

import importlib.metadata
import pathlib
import platform
import subprocess

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "tensorflow-datasets", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, this package and those it computes with."""
    from tf_ldiaf import __version__

    return {"python": platform.python_version(), "tf_ldiaf": __version__} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }


def git_commit() -> str | None:
    """The commit of this package's checkout, and whether it has other changes; None if there is none."""
    here = pathlib.Path(__file__).parent
    git = ["git", "-C", here]
    try:
        # A package that is installed inside another project's checkout has no commit of its own.
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        commit = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()
