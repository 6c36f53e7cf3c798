"""What a user can mend: each error's text is one sentence for them.

An error of a call speaks of the call's arguments, as `name`. A command prints the sentence, with `name` as its flag
--name, and ends.
"""

import re


class LDIAFError(ValueError):
    """What all errors below have in common."""

    def for_command(self) -> str:
        """The sentence on one line, with flags in place of arguments."""
        return re.sub(r"`(\w+(?:=[^`]*)?)`", r"--\1", " ".join(str(self).split()))


class ConfigError(LDIAFError):
    """A setting that cannot be used."""


class DataError(LDIAFError):
    """Images that are missing, unreadable or of the wrong kind."""


class FileError(LDIAFError):
    """A run, a SavedModel or another file that cannot be read or written as asked."""


class RequestError(LDIAFError):
    """A question to the explorer that cannot be answered."""


class CheckpointError(FileError):
    """A checkpoint that is damaged, or of another model."""


class UnreadableError(CheckpointError):
    """A checkpoint that may be undamaged cannot be read."""


class NonFiniteError(LDIAFError, ArithmeticError):
    """A term of the loss, or the gradient, is infinite or not a number."""


class WorkerError(LDIAFError):
    """Workers of a cluster that do not start, do not agree, or are lost."""
