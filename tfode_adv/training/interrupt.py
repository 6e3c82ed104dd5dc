"""Ctrl-C as a request: the loop finishes its step, saves and leaves."""

import signal
import threading


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts at once."""

    def __init__(self):
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        # Only the main thread may set handlers; elsewhere (a notebook's worker) signals go their usual way.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def _request(self, number, frame) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
