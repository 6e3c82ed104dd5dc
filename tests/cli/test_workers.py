"""Copies of a program, and the GPUs they share: none is here, so CUDA's part is played."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from tfode_adv.cli import flags, workers
from tfode_adv.errors import RunError

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Copy:
    """A process that ends at once."""

    started: list[dict] = []
    stdin = None
    returncode = 0

    def __init__(self, command, env, **options):
        self.started.append(env)

    def wait(self):
        return 0

    def poll(self):
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Pretends to have GPUs; notes when this process keeps the first alone, and what copies are started with."""
    kept = []
    monkeypatch.setattr(workers, "_keep_first_gpu", lambda: kept.append("first"))
    monkeypatch.setattr(workers.subprocess, "Popen", Copy)
    monkeypatch.setattr(Copy, "started", [])

    def with_gpus(*names):
        monkeypatch.setattr(workers, "_gpus", lambda: list(names))
        return kept

    return with_gpus


def start(processes):
    gpus = workers.share_devices(processes)
    with workers.beside("evaluate", flags.new(""), [{}] * (processes - 1), gpus):
        pass
    return [env.get("CUDA_VISIBLE_DEVICES") for env in Copy.started]


def test_each_process_has_a_gpu_of_its_own(machine):
    kept = machine("4", "7")
    assert start(3) == ["7", "4"] and kept == ["first"]


@pytest.mark.parametrize(("gpus", "processes"), [((), 2), (("0",), 2), (("0", "1"), 1)])
def test_devices_are_left_alone_where_there_is_nothing_to_share(machine, gpus, processes):
    kept = machine(*gpus)
    assert set(start(processes)) <= {os.environ.get("CUDA_VISIBLE_DEVICES")} and not kept


@pytest.fixture
def copies(monkeypatch):
    """Copies that run a line of shell each in place of a program; their processes, as they are started."""
    monkeypatch.setattr(workers, "_keep_threads", lambda count: None)
    monkeypatch.setattr(workers, "_command", lambda program, arguments: ["sh", "-c", program])
    processes, popen = [], subprocess.Popen

    def start(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(workers.subprocess, "Popen", start)
    return processes


def long_work():
    """Work that a copy's end is to cut short; Python listens to signals between its steps, as between TensorFlow's."""
    for _ in range(3000):
        time.sleep(0.01)
    raise SystemExit("the work went on to its end")


@pytest.mark.parametrize(
    "script, words",
    [
        ("printf '50%%| 5/10 [00:01]' >&2; kill -9 $$", "was ended by SIGKILL"),
        ("echo reading >&2; echo 'evaluate: no such file' >&2; exit 1", "failed: evaluate: no such file"),
    ],
)
def test_a_copy_that_fails_ends_the_work_beside_it_at_once(copies, script, words):
    # Keras rewords every exception that passes through a layer's call.
    reworded = contextlib.suppress(Exception)
    with pytest.raises(RunError, match=words), workers.beside(script, flags.new(""), [{}]), reworded:
        long_work()
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_ctrl_c_that_a_copy_had_first_is_no_failure(copies):
    with pytest.raises(KeyboardInterrupt), workers.beside("exit 130", flags.new(""), [{}, {}]):
        long_work()


def test_the_other_copies_end_with_one_that_failed(copies):
    with pytest.raises(RunError, match="status 3"), workers.beside("read go; exit 3", flags.new(""), [{}, {}]):
        copies[1].stdin.write(b"go\n")
        copies[1].stdin.flush()
        long_work()
    assert len(copies) == 2 and all(copy.poll() is not None for copy in copies)


def test_a_copy_that_fails_while_the_next_is_started_leaves_nobody_behind(copies, monkeypatch):
    popen = workers.subprocess.Popen

    def slow(*arguments, **options):
        # The first has failed by the time the second is there, and is not told of in between.
        for copy in copies:
            os.waitid(os.P_PID, copy.pid, os.WEXITED | os.WNOWAIT)
        return popen(*arguments, **options)

    monkeypatch.setattr(workers.subprocess, "Popen", slow)
    with pytest.raises(RunError, match="status 3"), workers.beside("exit 3", flags.new(""), [{}, {}]):
        long_work()
    assert len(copies) == 2 and all(copy.poll() is not None for copy in copies)


def test_a_copy_that_fails_while_it_is_asked_after_is_seen(copies, monkeypatch):
    waitid = os.waitid

    def interrupted(kind, process, options):
        # It ends after the system has said that it runs: the signal comes before the answer is read.
        answer = waitid(kind, process, options)
        if answer is None:
            copies[0].stdin.write(b"go\n")
            copies[0].stdin.flush()
            waitid(kind, process, os.WEXITED | os.WNOWAIT)
        return answer

    monkeypatch.setattr(os, "waitid", interrupted)
    with pytest.raises(RunError, match="status 3"), workers.beside("read go; exit 3", flags.new(""), [{}]):
        long_work()


def test_processes_share_the_cores(copies, monkeypatch, tmp_path):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    script = f'echo "$TF_NUM_INTRAOP_THREADS $OPENBLAS_NUM_THREADS $OMP_NUM_THREADS" >{tmp_path / "seen"}'
    with workers.beside(script, flags.new(""), [{}] * 2):
        pass
    # Twelve cores among three processes; where the user has said how many, that stays.
    assert (tmp_path / "seen").read_text().split() == ["4", "4", "5"]


def test_this_process_keeps_its_own_share_of_the_cores(machine, monkeypatch):
    machine()
    kept = []
    for name in ("intra", "inter"):
        limit = f"set_{name}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, limit, lambda count, name=name: kept.append((name, count)))
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    workers.share_devices(1)
    assert not kept
    workers.share_devices(3)
    assert kept == [("intra", 4)]


def test_a_child_takes_no_module_from_the_current_folder_and_ends_with_its_parent(tmp_path):
    for name in ("keras", "random", "tfode_adv"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    # A package whose program `endless` says so, and goes on until it is ended.
    package = tmp_path / "elsewhere" / "tfode_adv" / "cli"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "child.py").write_text((ROOT / "tfode_adv" / "cli" / "child.py").read_text())
    (package / "endless.py").write_text(
        "import random, sys, time\ndef run():\n    print(*sys.argv, flush=True)\n    time.sleep(60)\n"
    )
    command = workers._command("endless", ["--tol=1"])
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(package.parents[1])}}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as child:
        assert child.stdout.readline() == b"endless --tol=1\n"
        assert child.poll() is None
        # As when the parent is killed.
        child.stdin.close()
        assert child.wait(timeout=20) == -signal.SIGTERM
    assert not (tmp_path / "executed").exists()
    assert command[0] == sys.executable
