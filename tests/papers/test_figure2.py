"""WIFS 2019's figure 2 from kept images, on a narrow OON as it was initialised."""

import dataclasses

import keras
import numpy as np
import pytest

import tfode_adv as ta
from tests.evaluation.making import make_record
from tfode_adv import files
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell
from tfode_adv.papers import figure2
from tfode_adv.papers.reproduction import Shelf
from tfode_adv.run_folder import Run

IMAGES = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run folder with the attack's images at tau = 1e-3 and 1, three of four turned."""
    root = tmp_path_factory.mktemp("runs")
    keras.utils.set_random_seed(0)
    config = {"model": {"name": "oon"}, "dataset": {"name": "mnist"}, "flags": {"filters": 64}, "seed": 0}
    run = Run.create(root / "oon", config)
    ta.models.build("oon", (28, 28, 1), 10, filters=2).save(run.model_path)
    base = Configuration(
        files.sha256(run.model_path),
        "mnist",
        solver="dopri5",
        attack="pgd",
        norm="l2rms",
        eps=0.1,
        gradient="adjoint",
        hyperparameters={"steps": 10, "step_size": 0.05, "random_start": False, "restarts": 1, "early_stop": True},
    )
    clean = np.random.default_rng(0).random((IMAGES, 28, 28, 1), np.float32)
    for tol in (1e-3, 1.0):
        cell = Cell.of(run.path, dataclasses.replace(base, tol=tol))
        cell.append([make_record(i, success=i > 0) for i in range(IMAGES)])
        for i in range(IMAGES):
            cell.save_image(i, clean[i], np.clip(clean[i] + 0.1 * np.sign(0.5 - clean[i]), 0, 1))
    return root


def test_the_states_part_along_t(runs):
    figure = figure2.reproduce(Shelf(runs, "mnist", IMAGES, "adjoint"), IMAGES)
    (section,) = figure.sections
    (table,) = section.tables
    attack = "(PGD-10, l2rms ε = 0.1, gradient: adjoint)"
    assert section.title == f"OON: states along t {attack}" and len(section.pictures) == 2
    assert table.title.endswith(attack) and all(picture.title.endswith(attack) for picture in section.pictures)
    assert table.name == "figure2-oon-adjoint" and section.pictures[0].name == "figure2-l2-oon-adjoint"
    assert [row[:2] for row in table.rows] == [["1e-3", 3], ["1", 3]]
    for row in table.rows:
        start, end, cosine_start, cosine_end = row[2:6]
        assert start > 0 and end > 0 and 0 <= cosine_start <= 2 and 0 <= cosine_end <= 2
    # At t = 0 nothing has been integrated yet: the tolerance has no say.
    assert table.rows[0][2] == pytest.approx(table.rows[1][2], rel=1e-5)
    assert len(figure.missing) == 3 + 5 and {one.measurement.model.name for one in figure.missing} == {"mix", "oon"}


def test_too_few_kept_images_are_missing_with_the_command_that_keeps_them(runs):
    figure = figure2.reproduce(Shelf(runs, "mnist", IMAGES, "adjoint"), IMAGES + 1)
    assert not figure.sections and len(figure.missing) == 10
    assert all(f"--num_images={IMAGES + 1}" in one.commands[-1] for one in figure.missing)
