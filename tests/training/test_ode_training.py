"""What a training shows of its ODE blocks, and what it does when their solves fail."""

import numpy as np
import pytest
import tensorflow as tf

from tests.training import tiny
from tfode_adv.errors import RunError
from tfode_adv.models import solver_statistics
from tfode_adv.training import Survival, Trades
from tfode_adv.training.callbacks import ProgressBar, TensorBoard


def _logs(model, **options):
    end, _ = tiny.train(model, epochs=1, rate=1e-9, **options)
    return end.history[0]


def test_evaluations_forward_and_backward_are_means_over_the_samples(tmp_path, capsys):
    model = tiny.ode_model()
    bar = ProgressBar(epochs=1, batches=7)
    logs = _logs(model, validation=tiny.batches(1, 0), callbacks=[bar, TensorBoard(tmp_path)])
    counts = solver_statistics(model, tiny.IMAGES)
    assert logs["nfe"] == pytest.approx(counts.nfe.mean(), abs=0.2)
    assert logs["val_nfe"] == pytest.approx(logs["nfe"], abs=0.2)
    # Accepted steps alone are differentiated, three new stages each and the first one once.
    assert 3 * counts.accepted.mean() <= logs["nfe_backward"] + 0.5 <= logs["nfe"] + 0.5
    shown = capsys.readouterr().out
    assert f"nfe {logs['nfe']:.1f}" in shown and "nfe-b" in shown and "img/s" in shown

    (file,) = tmp_path.iterdir()
    events = [tf.compat.v1.Event.FromString(r) for r in tf.compat.v1.io.tf_record_iterator(str(file))]
    values = {value.tag: value for event in events for value in event.summary.value}
    buckets = tf.make_ndarray(values["nfe_per_sample"].tensor)
    assert values["nfe_per_sample"].metadata.plugin_data.plugin_name == "histograms"
    assert buckets[:, 2].sum() == 52 and buckets[0, 0] <= logs["nfe"] <= buckets[-1, 1]


def test_the_adjoint_trains_too_and_says_nothing_of_its_backward_cost():
    logs = _logs(tiny.ode_model(gradient="adjoint"))
    assert logs["nfe"] > 0 and "nfe_backward" not in logs


def test_models_without_ode_blocks_show_no_evaluations():
    assert "nfe" not in _logs(tiny.plain_model())


def test_trades_counts_the_natural_images_alone():
    logs = _logs(tiny.ode_model(solver="euler", num_steps=2), loss=Trades(eps=0.1, steps=1))
    assert logs["nfe"] == 2


def test_a_failed_solve_stops_the_run_with_one_line():
    model = tiny.ode_model(stiffness=2.0, max_num_steps=1, tol=1e-5)
    with pytest.raises(RunError, match=r"epoch 1, batch 1: .*: 8 solves ran out of steps") as caught:
        tiny.train(model, epochs=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classifier", [tiny.ode_model, tiny.plain_model])
def test_validation_counts_images_without_an_answer_as_wrong_and_says_so(classifier):
    images = tiny.IMAGES[:20].copy()
    images[:3, 0, 0] = np.nan
    # The largest of logits that are not numbers is the first.
    validation = [(tf.constant(images), tf.zeros(20, tf.int64))]
    model = classifier()
    end, lines = tiny.train(model, epochs=1, rate=1e-9, validation=validation)
    right = np.argmax(model.predict(images[3:], verbose=0), axis=-1) == 0
    assert end.history[0]["val_accuracy"] == pytest.approx(right.sum() / 20)
    (line,) = lines
    assert line.startswith("epoch 1, validation: 3 of 20 images count as wrong: ")
    assert ("3 solves met" if classifier is tiny.ode_model else "the loss is nan") in line


def test_failed_solves_can_be_skipped_and_are_counted():
    model = tiny.ode_model()

    def train(epoch, step):
        # A pixel that is not a number makes one solve fail, the other seven not.
        for number, (x, y) in enumerate(tiny.batches(epoch, step), step):
            yield (tf.tensor_scatter_nd_update(x, [[0, 0, 0, 0]], [np.nan]) if number == 1 else x), y

    end, lines = tiny.train(model, epochs=1, train=train, survival=Survival(on_nan="skip"))
    assert end.history[0]["skipped"] == 1 and len(lines) == 1 and "batch 2" in lines[0]
    assert np.isfinite(tiny.weights(model)).all()
