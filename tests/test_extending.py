"""The worked examples of docs/extending.md run as they stand, and do what they say."""

import pathlib
import re

import numpy as np
import pytest

import tfode_adv as ta
from tfode_adv.models.registry import FAMILIES

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def names():
    made = {"__name__": "extending"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), made)
    yield made
    FAMILIES.pop("thin", None)


def test_the_attack_turns_a_linear_model(names):
    # Logits differ by 2 (0.2) - 0.1 = 0.3: 0.0375 off each of four pixels turns it, the second step's 0.05 does.
    assert names["result"].success.tolist() == [True]
    assert np.abs(names["result"].x_adv - names["images"]).max() <= 0.1 + 1e-6


def test_the_solver_has_its_order(names):
    assert names["coarse"] / names["fine"] == pytest.approx(4, rel=0.1)


def test_the_gradient_is_clipped(names):
    assert names["grown"].numpy() == pytest.approx(np.e, rel=1e-4)
    assert names["clipped"].numpy() == 2.0


def test_the_model_is_known_by_name(names):
    assert "thin" in ta.models.available()
    assert names["model"].output_shape == (None, 3) and len(ta.models.ode_blocks(names["model"])) == 1


def test_the_data_set_is_read(names):
    assert names["tones"].shape == (4, 4, 4, 1)
    np.testing.assert_allclose(names["tones"][:, 0, 0, 0], names["labels"] * (200 / 255), rtol=1e-6)


def test_the_indicator_fails_at_a_quarter(names):
    assert names["found"].value == 0.25 and not names["found"].passed
