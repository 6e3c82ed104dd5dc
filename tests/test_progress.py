"""Progress, as it shows in a log file."""

import pytest

from tfode_adv import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_short_work_leaves_no_line(clock, capsys):
    assert list(progress.bar(range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_long_work_leaves_a_line_every_ten_seconds_and_none_twice(clock, capsys):
    for _ in progress.bar(range(50), desc="long", unit="image"):
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert "long" in lines[0] and "/50" in lines[0]
    assert "50/50" in lines[-1] and "100%" in lines[-1]


def test_the_end_is_told_between_two_lines_too(clock, capsys):
    for _ in progress.bar(range(15), desc="long"):
        clock.now += 1
    assert "15/15" in capsys.readouterr().err.splitlines()[-1]


def test_the_postfix_and_an_unknown_total_show(clock, capsys):
    with progress.bar(desc="open") as bar:
        bar.set_postfix(loss=0.25, phase="train")
        clock.now += 11
        bar.update(7)
    (first,) = capsys.readouterr().err.splitlines()
    assert "7it" in first and "loss=0.25" in first and "phase=train" in first
