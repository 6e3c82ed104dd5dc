"""Copies of a program that do other parts of its work beside it."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from tfode_adv.errors import RunError, UsageError

_DEVICES = "CUDA_VISIBLE_DEVICES"


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
    """Keeps the first GPU for this process, if there are several processes and GPUs.

    To be called before TensorFlow computes anything: it does not let go of a GPU it has taken.

    Returns:
        The GPUs for `beside`, by the names CUDA has for them; none where there is nothing to share.
    """
    gpus = _gpus() if processes > 1 else []
    if len(gpus) < 2:
        return []
    _keep_first_gpu()
    return gpus


@contextlib.contextmanager
def beside(
    program: str, values: flags.FlagValues, parts: Sequence[Mapping[str, str]], gpus: Sequence[str] = ()
) -> Iterator[None]:
    """Runs copies of a program while the body does its own part, and waits for them.

    Args:
        program: the module's name under `tfode_adv.cli`.
        values: the program's flags, which the copies get too, except
        parts: for each copy the flags that differ.
        gpus: what `share_devices` returned; each copy has one of them, in turn from the second on.

    Raises:
        RunError: if a copy failed; the message is its last line.
    """
    with contextlib.ExitStack() as stack:
        copies = []
        for place, part in enumerate(parts, start=1):
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            devices = {_DEVICES: gpus[place % len(gpus)]} if gpus else {}
            copy = subprocess.Popen(
                _command(program, _arguments(values, part)),
                env={**_environment(), **devices},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            stack.callback(_end, copy)
            copies.append((copy, said))
        yield
        for copy, said in copies:
            if copy.wait():
                said.seek(0)
                lines = said.read().strip().splitlines() or [f"status {copy.returncode}"]
                raise RunError(f"a copy of this program failed: {lines[-1]}")


def run(program: str, arguments: Sequence[str]) -> int:
    """Runs a program of this package in a process of its own, waits for it, and returns its status."""
    return subprocess.run(_command(program, arguments), env=_environment()).returncode


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    start = f"import sys; from tfode_adv.cli import {program}; sys.argv[0] = {program!r}; {program}.run()"
    return [sys.executable, "-c", start, *arguments]


def _environment() -> dict[str, str]:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


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


def _end(copy: subprocess.Popen) -> None:
    if copy.poll() is None:
        copy.terminate()
    copy.wait()
