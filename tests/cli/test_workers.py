"""Copies of a program, and the GPUs they share: none is here, so CUDA's part is played."""

import os

import pytest

from tfode_adv.cli import flags, workers


class Copy:
    """A process that ends at once."""

    started: list[dict] = []
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
