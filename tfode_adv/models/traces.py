"""A cache of compiled functions that knows which ODE blocks each was traced through."""

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import tensorflow as tf

from tfode_adv.layers import ODEBlock
from tfode_adv.layers.context import blocks_read, current_settings, note_read

Noting = Callable[[Callable], Callable]


class Traces:
    """The last `size` things that were compiled, by keys.

    One is found again as long as every block that it was traced through is solved as it was then, tolerances and
    numbers of steps aside, which a block reads anew at each call. What `solver_settings` it is made in belongs to
    its key: see `settings_key`.

    Args:
        size: how many are kept.
        forward: whether they only ask, so that how a block is differentiated is no matter.
    """

    def __init__(self, size: int = 32, *, forward: bool = False):
        self._size, self._forward, self._lock = size, forward, threading.Lock()
        self._kept: list[_Trace] = []

    def find(self, key: Hashable, make: Callable[[Noting], Any]) -> Any:
        """What was made for `key`, or else `make(noting)`.

        Args:
            make: returns what is to be kept; it wraps by `noting` the functions that are traced, now or later.
        """
        with self._lock:
            found = next((each for each in self._kept if each.key == key and each.holds()), None)
        # Not under the lock: it may find others.
        found = found or _Trace(key, make, self._forward)
        with self._lock:
            self._kept = [found, *(each for each in self._kept if each is not found)][: self._size]
        # What is traced now, and calls it, goes through its blocks.
        for block in found.blocks():
            note_read(block)
        return found.value


class _Trace:
    """Something compiled, and by block what its trace depends on."""

    def __init__(self, key: Any, make: Callable[[Noting], Any], forward: bool):
        self.key, self._forward = key, forward
        self._blocks: dict[weakref.ref, Any] = {}
        self.value = make(self._noting)

    def blocks(self) -> list[ODEBlock]:
        return [block for reference in list(self._blocks) if (block := reference()) is not None]

    def holds(self) -> bool:
        return all(self._depends_on(block) == self._blocks[weakref.ref(block)] for block in self.blocks())

    def _depends_on(self, block: ODEBlock) -> tuple:
        return block.final_time, block.fixed.forward if self._forward else block.fixed

    def _noting(self, function: Callable) -> Callable:
        def noting(*arguments: Any) -> Any:
            with blocks_read() as blocks:
                result = function(*arguments)
            self._blocks.update((weakref.ref(block), self._depends_on(block)) for block in blocks)
            return result

        return noting


def settings_key(settings: Mapping[str, Any] | None = None) -> tuple:
    """Solver settings, by default those in force, as part of a key."""
    given = current_settings() if settings is None else settings
    # A trace keeps the tensors it reads, so that no other one takes their places in memory.
    return tuple(sorted((name, id(value) if tf.is_tensor(value) else value) for name, value in given.items()))
