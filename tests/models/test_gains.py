"""The network that GAINS certifies: its size, its solver, its checkpoints by hand."""

import numpy as np
import pytest

import tfode_adv as ta
from tests.interop.torch_states import gains_state
from tests.models.test_tisode import conv
from tfode_adv.errors import UsageError
from tfode_adv.solvers.tableaus import DOPRI5

TOL = 0.005


def test_size_and_solver_are_the_program_s():
    model = ta.models.build("gains", first_step_size=0.4)
    assert model.count_params() == 45866
    (block,) = ta.models.ode_blocks(model)
    assert (block.solver, block.tol, block.endpoint, block.first_step_size) == ("dopri5_cas", TOL, "clip", 0.4)


@pytest.mark.parametrize("first", [0.3, 1.7])
def test_a_checkpoint_s_logits_and_steps_are_those_computed_by_hand(first):
    state = gains_state(first_step=first)
    model = ta.interop.build_from_state("gains", state, input_shape=(14, 15, 1), normalization=(0.1307, 0.3081))
    x = np.random.default_rng(1).random((3, 14, 15, 1), np.float32)
    counts = ta.models.solver_statistics(model, x)
    for i in range(3):
        logits, accepted, rejected = by_hand(state, x[i : i + 1], min(first, 1.0))
        assert (counts.accepted[i], counts.rejected[i]) == (accepted, rejected)
        np.testing.assert_allclose(model(x[i : i + 1]), logits, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_first_step_is_refused():
    model = ta.models.build("gains", filters=4, num_classes=3)
    with pytest.raises(UsageError, match=r"does not fit gains: first_step_size is None, the checkpoint's is 0\.3"):
        ta.interop.load_torch_state(model, gains_state())


def test_the_first_step_survives_saving(tmp_path):
    model = ta.interop.build_from_state("gains", gains_state())
    model.save(tmp_path / "model.keras")
    import keras

    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [block.first_step_size for block in ta.models.ode_blocks(again)] == [pytest.approx(0.3)]


def by_hand(state, x, step):
    """One image: logits, steps accepted, steps rejected, the program's loop written out."""
    h = (x - 0.1307) / 0.3081
    for i in (1, 3):
        h = np.maximum(conv(h, state[f"net.{i}.weight"], state[f"net.{i}.bias"], 2), 0)
    t, accepted, rejected = 0.0, 0, 0
    while t < 1:
        step = min(step, 1 - t)
        slopes = []
        for a, c in zip(DOPRI5.a, DOPRI5.c, strict=True):
            slopes.append(slope(state, t + c * step, h + step * sum(w * k for w, k in zip(a, slopes, strict=True))))
        error = np.abs(step * sum(w * k for w, k in zip(DOPRI5.error, slopes, strict=True))).sum() / TOL
        if error > 1:
            step, rejected = step / 2, rejected + 1
            continue
        t, h, accepted = t + step, h + step * sum(w * k for w, k in zip(DOPRI5.b, slopes, strict=True)), accepted + 1
        step *= 2 if error <= 2**-5 else 1
    return h.mean((1, 2)) @ state["net.8.weight"].T + state["net.8.bias"], accepted, rejected


def slope(state, t, h):
    for i in (1, 2):
        layer = f"net.5.odefunc.conv{i}._layer."
        h = np.concatenate([np.full_like(h[..., :1], t), h], axis=-1)
        h = np.maximum(conv(h, state[f"{layer}weight"], state[f"{layer}bias"], 1, 1), 0)
    return h
