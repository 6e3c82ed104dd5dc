import hypothesis
import hypothesis.strategies as st
import pytest

from tfode_adv.errors import UsageError
from tfode_adv.training import schedules


def _rates(schedule, errors):
    rates = []
    for epoch, error in enumerate(errors):
        rates.append(schedule.rate(epoch))
        schedule.observe(error)
    return rates


def test_steps_cut_at_the_published_epochs():
    schedule = schedules.get("steps", 0.01, 350, milestones=(150, 300))
    assert [schedule.rate(epoch) for epoch in (0, 149, 150, 299, 300, 349)] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    )


def test_cosine_starts_full_and_falls_to_nothing():
    schedule = schedules.get("cosine", 0.4, 10)
    assert [schedule.rate(epoch) for epoch in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0.0])


def test_plateau_counts_as_pytorch_does():
    torch = pytest.importorskip("torch")
    errors = [0.5, 0.4, 0.4, 0.41, 0.4, 0.39, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1]
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    expected = []
    for error in errors:
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(error)
    assert _rates(schedules.get("plateau", 0.1, 13, patience=2), errors) == pytest.approx(expected)
    assert len(set(expected)) > 2


@hypothesis.given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.data())
def test_a_restored_schedule_goes_on_as_the_one_left_alone(errors, draw):
    cut = draw.draw(st.integers(0, len(errors)))
    whole, first, second = (schedules.get("plateau", 0.1, 20, patience=1) for _ in range(3))
    expected = _rates(whole, errors)
    _rates(first, errors[:cut])
    second.restore(first.state())
    assert [second.rate(cut)] == [first.rate(cut)]
    assert _rates(second, errors[cut:]) == expected[cut:]


@pytest.mark.parametrize(
    "arguments",
    [
        ("step", 0.1, 5),
        ("constant", 0.0, 5),
        ("constant", float("nan"), 5),
        ("constant", 1e39, 5),
        ("constant", 0.1, 0),
        ("steps", 0.1, 5),
    ],
)
def test_bad_values_are_named(arguments):
    with pytest.raises(UsageError, match="must be"):
        schedules.get(*arguments)
