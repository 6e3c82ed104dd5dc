"""A training that is killed at random moments, five times, ends as the one left alone."""

import random
import sys

import numpy as np

from tests.training import tiny
from tfode_adv.training import Survival, schedules
from tfode_adv.training.checkpoints import Checkpoints

EPOCHS, KILLS = 40, 5


def _train(folder):
    sys.stdout = sys.stderr = open(folder / "log.txt", "a")  # noqa: SIM115
    tiny.train(
        tiny.model(),
        epochs=EPOCHS,
        schedule=schedules.get("plateau", 0.1, EPOCHS, patience=2),
        validation=list(tiny.batches(99, 4)),
        # A checkpoint after every batch: a kill in the middle of writing one is likely.
        survival=Survival(folder, resume=True, checkpoint_minutes=1e-9),
    )


def _state(folder):
    store = Checkpoints(folder / "checkpoints")
    arrays, note, _ = store.newest()
    return arrays, note, store.best()[0]


def test_killed_five_times_and_the_same_bit_for_bit(processes, tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir(), killed.mkdir()
    undisturbed = processes.start(_train, alone)
    moments, survived = random.Random(), []
    for _ in range(KILLS):
        process = processes.start(_train, killed)
        _wait_for_progress(process, killed, len(survived))
        process.join(moments.uniform(0.0, 0.5))
        assert process.exitcode is None, "it ended before it could be killed"
        process.kill()
        process.join()
        survived.append(Checkpoints(killed / "checkpoints").newest()[1]["updates"])
    assert survived == sorted(survived) and survived[-1] > survived[0]
    processes.finish([undisturbed, processes.start(_train, killed)])

    ours, theirs = _state(killed), _state(alone)
    assert ours[1]["epoch"] == EPOCHS and ours[1]["best_error"] == theirs[1]["best_error"]
    for mine, reference in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        assert mine.keys() == reference.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], reference[name], err_msg=name)


def _wait_for_progress(process, folder, killed):
    """Until the process has gone beyond where the one before it was killed."""
    before = Checkpoints(folder / "checkpoints").newest()
    start = before[1]["updates"] if before else 0
    for _ in range(600):
        process.join(0.05)
        now = Checkpoints(folder / "checkpoints").newest()
        if process.exitcode is not None or (now and now[1]["updates"] > start):
            return
