"""Ctrl-C and SIGTERM: what is under way is finished first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    Args:
        number: of the signal that asked.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Request:
    """Whether the process was asked to end."""

    def __init__(self):
        self.number: int | None = None

    def obey(self) -> None:
        """Does nothing unless the process was asked to end.

        Raises:
            Stopped: it was.
        """
        if self.number is not None:
            raise Stopped(self.number)


def raised_at_once() -> None:
    """From now on Ctrl-C and SIGTERM raise `Stopped`."""
    _handle(_raise)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within the block the first Ctrl-C or SIGTERM is only noted, in the `Request`, and raised at the block's end.

    A second one is raised at once. Only the main thread gets signals: in another, nothing is deferred.
    """
    request = Request()

    def note(number, frame):
        if request.number is not None:
            _raise(number, frame)
        request.number = number

    before = _handle(note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    request.obey()


def _raise(number, frame):
    raise Stopped(number)


def _handle(handler):
    """Sets the handler of signals, unless they are ignored as behind `nohup`; returns number -> old handler."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}
