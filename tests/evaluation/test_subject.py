"""A Keras model under evaluation, one of whose solves may fail."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.kept_images import Kept
from tfode_adv.evaluation.records import NO_ANSWER, Cell
from tfode_adv.evaluation.results import Result
from tfode_adv.evaluation.runner import evaluate
from tfode_adv.evaluation.subject import KerasSubject, match_classes
from tfode_adv.reports.overview import attack_table
from tfode_adv.runs import Run

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
