"""Copies of a program that do other parts of its work beside it."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from absl import flags

from tfode_adv.errors import RunError, UsageError

_DEVICES = "CUDA_VISIBLE_DEVICES"
_COPY = "TFODE_ADV_COPY"
# Of `cli.app`.
_INTERRUPTED = 130
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def count(distribute: str) -> int:
    """How many processes `--distribute` asks for: `none`, `gpus` or a number.

    Raises:
        UsageError: for anything else.
    """
    if distribute == "none":
        return 1
    if distribute == "gpus":
        return max(1, len(_gpus()))
    if distribute.isdecimal() and int(distribute):
        return int(distribute)
    raise UsageError(f"distribute is {distribute!r}, but must be none, gpus or a number of processes")


def share_devices(processes: int) -> list[str]:
    """Keeps this process's share of the cores, and the first GPU, if there are several processes and GPUs.

    To be called before TensorFlow computes anything: it lets go of no GPU and no thread that it has taken.

    Returns:
        The GPUs for `beside`, by the names CUDA has for them; none where there is nothing to share.
    """
    if processes > 1:
        _keep_threads(_share(processes))
    gpus = _gpus() if processes > 1 else []
    if len(gpus) < 2:
        return []
    _keep_first_gpu()
    return gpus


class _Failed(BaseException):
    """A copy's failure, wherever it is told of: what catches or rewords exceptions there lets this one through."""


@contextlib.contextmanager
def beside(
    program: str, values: flags.FlagValues, parts: Sequence[Mapping[str, str]], gpus: Sequence[str] = ()
) -> Iterator[None]:
    """Runs copies of a program while the body does its own part, and waits for them.

    A copy that fails ends the body at once. Copies end with this process, however that ends.

    Args:
        program: the module's name under `tfode_adv.cli`.
        values: the program's flags, which the copies get too, except
        parts: for each copy the flags that differ.
        gpus: what `share_devices` returned; each copy has one of them, in turn from the second on.

    Raises:
        RunError: if a copy failed; the message is its last line.
    """
    copies: list[tuple[subprocess.Popen, IO[str]]] = []
    with contextlib.ExitStack() as stack:
        try:
            for place, part in enumerate(parts, start=1):
                said = stack.enter_context(tempfile.TemporaryFile("w+"))
                devices = {_DEVICES: gpus[place % len(gpus)]} if gpus else {}
                copy = subprocess.Popen(
                    _command(program, _arguments(values, part)),
                    env={**_environment(), **_threads(len(parts) + 1), **devices, _COPY: "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                )
                stack.callback(_end, copy)
                copies.append((copy, said))
            # Not before: a failure told of while a copy is being started would leave that copy to nobody.
            with _told_of_ends(lambda: _check(copies)):
                # One may have ended before it was listened for.
                _check(copies)
                yield
                for copy, _ in copies:
                    copy.wait()
                    _check(copies)
        except _Failed as error:
            raise RunError(f"a copy of this program {error}") from None


def is_copy() -> bool:
    """Whether this process does a part of another's work, which waits for it."""
    return _COPY in os.environ


def run(program: str, arguments: Sequence[str]) -> int:
    """Runs a program of this package in a process of its own, waits for it, and returns its status.

    It is asked to end when this process ends; Ctrl-C reaches both, and is waited for.
    """
    with subprocess.Popen(_command(program, arguments), env=_environment(), stdin=subprocess.PIPE) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


@contextlib.contextmanager
def _told_of_ends(check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` whenever a child of this process ends: in the main thread, the only one that can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    failed = False

    def told(number, frame) -> None:
        nonlocal failed
        # Once: what follows a failure is the end of the others.
        if not failed:
            try:
                check()
            except BaseException:
                failed = True
                raise

    before = signal.signal(signal.SIGCHLD, told)
    # What the system does for us meanwhile is not cut short.
    signal.siginterrupt(signal.SIGCHLD, False)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _check(copies: Sequence[tuple[subprocess.Popen, IO[str]]]) -> None:
    """Raises for the first copy that failed, and says how."""
    for copy, said in copies:
        status = _status(copy)
        if status in (-signal.SIGINT, _INTERRUPTED):
            # Ctrl-C reaches every process.
            raise KeyboardInterrupt
        if status is not None and status < 0:
            raise _Failed(f"was ended by {signal.Signals(-status).name}")
        if status:
            said.seek(0)
            lines = said.read().strip().splitlines() or [f"status {status}"]
            raise _Failed(f"failed: {lines[-1]}")


def _status(copy: subprocess.Popen) -> int | None:
    """As `copy.poll()`, which says "still running" to a signal's handler that interrupts another `copy.poll()`."""
    if copy.returncode is None:
        ended = os.waitid(os.P_PID, copy.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return copy.returncode


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    # -P: a file in the current folder, say keras.py, must not pass for a module.
    return [sys.executable, "-P", "-m", "tfode_adv.cli.child", program, *arguments]


def _environment() -> dict[str, str]:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    named = {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    return {name: value for name, value in {**os.environ, **named}.items() if name != _COPY}


def _threads(processes: int) -> dict[str, str]:
    """For the environment: each process's share of the cores, unless the user has said how many."""
    share = str(_share(processes))
    return {name: share for name in _THREADS if name not in os.environ}


def _share(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _arguments(values: flags.FlagValues, part: Mapping[str, str]) -> list[str]:
    # Those given alone: a default spelt out would look like a choice. What a flag file held is among them.
    given = [
        line
        for name in values
        if values[name].present and name not in ("flagfile", "undefok")
        for line in values[name].serialize().splitlines()
    ]
    own = {"distribute": "none", "overwrite": "false", **part}
    return [*given, *(f"--{name}={value}" for name, value in own.items())]


def _gpus() -> list[str]:
    import tensorflow as tf

    found = len(tf.config.list_physical_devices("GPU"))
    named = [name for name in os.environ.get(_DEVICES, "").split(",") if name]
    return named[:found] or [str(place) for place in range(found)]


def _keep_first_gpu() -> None:
    import tensorflow as tf

    tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[:1], "GPU")


def _keep_threads(count: int) -> None:
    import tensorflow as tf

    # A process that has computed keeps what it has.
    with contextlib.suppress(RuntimeError):
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            tf.config.threading.set_intra_op_parallelism_threads(count)
        if "TF_NUM_INTEROP_THREADS" not in os.environ:
            tf.config.threading.set_inter_op_parallelism_threads(count)


def _end(copy: subprocess.Popen) -> None:
    if copy.poll() is None:
        copy.terminate()
    copy.wait()
    if copy.stdin:
        copy.stdin.close()
