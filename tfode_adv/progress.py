"""Progress bars: one that redraws itself on a terminal, a plain line now and then anywhere else."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 10.0


class _Lines:
    """What `tqdm` offers, for a log file: a finished line at most every ten seconds, none for short work."""

    def __init__(self, iterable: Iterable | None, total: float | None, desc: str, unit: str):
        self.iterable, self.total, self.desc, self.unit = iterable, total, desc, unit
        self.n = 0
        self._printed: float | None = None
        self._postfix = ""
        self._start = self._last = time.monotonic()

    def __iter__(self) -> Iterator:
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        self.n += n
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._print()

    def set_postfix(self, values: dict | None = None, refresh: bool = True, **more: Any) -> None:
        # Through tqdm's own formatting, so that a log reads like the bar.
        shown = {**(values or {}), **more}
        numbers = {k: tqdm.format_num(v) if isinstance(v, int | float) else v for k, v in shown.items()}
        self._postfix = ", ".join(f"{key}={str(value).strip()}" for key, value in numbers.items())

    def set_description(self, desc: str = "", refresh: bool = True) -> None:
        self.desc = desc

    def close(self) -> None:
        if self._printed is not None and self._printed != self.n:
            self._print()

    def _print(self) -> None:
        self._last, self._printed = time.monotonic(), self.n
        print(
            tqdm.format_meter(
                self.n,
                self.total,
                self._last - self._start,
                ncols=0,
                prefix=self.desc,
                unit=self.unit,
                postfix=self._postfix,
            ),
            file=sys.stderr,
            flush=True,
        )


def bar(
    iterable: Iterable | None = None, total: float | None = None, desc: str = "", unit: str = "it"
) -> tqdm | _Lines:
    """A progress bar on standard error; iterate over it, or call `update(n)`.

    Args:
        iterable: what to iterate over; None for a bar that is moved by `update`.
        total: how many items there will be; taken from `iterable` where it has a length.
        desc: what is being done, shown in front.
        unit: what is counted, one word in the singular.

    Returns:
        An object with `update`, `set_postfix`, `set_description` and `close`, also a context manager.
        On a terminal it is a `tqdm`; elsewhere it prints a line every ten seconds, and none for work
        that is done sooner.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, desc=desc, unit=unit, dynamic_ncols=True)
    return _Lines(iterable, total, desc, unit)
