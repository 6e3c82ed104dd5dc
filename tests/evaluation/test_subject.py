"""A Keras model under evaluation, one of whose solves may fail."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers, solvers
from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation import grid
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.kept_images import Kept
from tfode_adv.evaluation.records import NO_ANSWER, Cell
from tfode_adv.evaluation.results import Result
from tfode_adv.evaluation.runner import evaluate
from tfode_adv.evaluation.subject import KerasSubject, match_classes
from tfode_adv.reports.overview import attack_table
from tfode_adv.run_folder import Run

FGSM = Configuration("abc", "toy", solver="euler", attack="fgsm", norm="linf", eps=0.45, gradient="backprop", seed=0)


@pytest.fixture(scope="module")
def subject():
    """Two pixels are the two logits, less a logarithm that is none from 0.5 on: there the solve fails."""
    image = keras.Input((1, 2, 1))
    state = keras.layers.Flatten()(image)
    return KerasSubject(keras.Model(image, layers.ODEBlock(lambda t, h: -tf.math.log(0.5 - h), solver="euler")(state)))


def evaluated(subject, pixels, folder):
    images = np.float32(pixels).reshape(-1, 1, 2, 1)
    evaluate(subject, images, np.zeros(len(images), int), [FGSM], folder)
    return list(Cell.of(folder, FGSM).records().values())


def test_a_solve_that_fails_under_attack_ends_no_evaluation(subject, tmp_path):
    records = evaluated(subject, [[0.2, 0.1], [0.02, 0.01], [0.3, 0.2]], tmp_path)
    assert [record.adversarial for record in records] == [NO_ANSWER, 1, NO_ANSWER]
    assert all(record.correct and record.success for record in records)
    assert records[0].margin_adversarial is None and records[1].margin_adversarial < 0
    result = Result("toy", FGSM, dict(enumerate(records)), Kept())
    assert "a solve failed for, 2 in all rows" in attack_table([result]).note


def test_a_solve_that_fails_on_a_clean_image_ends_it_with_the_reason(subject, tmp_path):
    with pytest.raises(RunError, match="the clean pass stopped: the solve failed for 1 of 2 samples: 1 .* at t = 0"):
        evaluated(subject, [[0.2, 0.1], [0.6, 0.1]], tmp_path)


class _Counting(keras.layers.Layer):
    """Counts the images that come through, once they are compiled as well."""

    def __init__(self):
        super().__init__()
        self.passed = tf.Variable(0, trainable=False)

    def call(self, x):
        self.passed.assign_add(tf.shape(x)[0])
        return x


def test_an_evaluation_makes_one_clean_pass_a_solver_setting_and_none_after_verification(tmp_path):
    count, image = _Counting(), keras.Input((1, 2, 1))
    # Logits of both signs, which are not taken for probabilities.
    state = keras.layers.Rescaling(8, -4)(keras.layers.Flatten()(count(image)))
    block = layers.ODEBlock(lambda t, h: -h, solver="euler")
    subject = KerasSubject(keras.Model(image, block(state)), batch_size=16)
    images = np.random.default_rng(0).uniform(0.4, 0.6, [16, 1, 2, 1]).astype(np.float32)
    labels = images[:, 0, :, 0].argmax(-1)
    fgsm = [dataclasses.replace(FGSM, eps=eps, num_steps=2) for eps in (0.01, 0.05)]
    # The clean pass, and of either attack a step and the verification.
    evaluate(subject, images, labels, fgsm, tmp_path)
    assert count.passed.numpy() == 16 + 2 * (16 + 16)
    records = Cell.of(tmp_path, fgsm[1]).records().values()
    turned = [record.success for record in records]
    assert turned == (np.abs(images[:, 0, 0, 0] - images[:, 0, 1, 0]) < 0.1).tolist()
    for record, image in zip(records, images[:, 0, :, 0], strict=True):
        gap = abs(image[0] - image[1])
        assert record.nfe_adversarial == record.nfe_clean == 2
        assert record.margin_clean == pytest.approx(2 * gap, abs=1e-5)
        assert record.margin_adversarial == pytest.approx(2 * (gap - 0.1), abs=1e-5)
    # Another attack in another process finds the clean cell made, but no logits: one pass for all that are missing.
    count.passed.assign(0)
    again = [dataclasses.replace(FGSM, eps=eps, num_steps=2) for eps in (0.02, 0.03)]
    evaluate(KerasSubject(subject.model, batch_size=16), images, labels, again, tmp_path)
    assert count.passed.numpy() == 16 + 2 * (16 + 16)


def test_a_solver_of_the_model_s_own_is_evaluated_under_its_name():
    own = solvers.Heun2(safety_factor=0.5)
    block = layers.ODEBlock(lambda t, h: -h, solver=own, gradient=solvers.Adjoint(tol=1e-5), tol=0.1)
    subject = KerasSubject(keras.Sequential([keras.Input((2,)), block]))
    (found,) = grid.model_grid([Configuration("", "toy")], grid.Axes(attacks=["none"]), [block])
    assert (found.solver, found.tol) == ("heun2", 0.1)
    subject.configure(Configuration("", "toy", solver="rk4", num_steps=2, gradient="backprop"))
    assert (block.solver, block.gradient, block.num_steps) == ("rk4", "backprop", 2)
    subject.configure(dataclasses.replace(found, tol=1e-3, gradient="adjoint"))
    assert block.solver.get_config() == own.get_config() and block.gradient.tol == 1e-5 and block.tol == 1e-3


def test_classes_are_matched_by_name(tmp_path):
    run = Run(tmp_path, {"dataset": {"name": "folder:abc", "classes": ["a", "b", "c"]}})
    labels = np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(match_classes(run, "folder:bc", ["b", "c"], labels), [1, 2, 2, 1])
    np.testing.assert_array_equal(match_classes(run, "folder:abc", ["a", "b", "c"], labels), labels)
    for names in (["a", "b", "cat"], ["a", "b", "c", "d"], [".hidden", "a", "b"]):
        with pytest.raises(UsageError, match=f"are {', '.join(names)}, but the model was trained on a, b, c"):
            match_classes(run, "folder:other", names, labels)
    # A run of before the names were kept.
    np.testing.assert_array_equal(match_classes(Run(tmp_path, {}), "folder:bc", ["b", "c"], labels), labels)
