import csv
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import tiny
from tfode_adv.errors import RunError, UsageError
from tfode_adv.training import SGD, CrossEntropy, Madry, Survival, schedules
from tfode_adv.training.callbacks import MetricsFile, TensorBoard
from tfode_adv.training.checkpoints import Checkpoints, locked
from tfode_adv.training.loop import Diverged


class Stop(keras.callbacks.Callback):
    """Kills the run's process, for the process's own good, after so many batches."""

    def __init__(self, after, how):
        super().__init__()
        self.left, self.how = after, how

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.how()


def _validation():
    return [(tf.constant(tiny.IMAGES[:20]), tf.constant(tiny.LABELS[:20]))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    model = tiny.model()
    schedule = schedules.get("plateau", 0.1, 3, patience=1)
    end, _ = tiny.train(
        model,
        epochs=3,
        schedule=schedule,
        validation=_validation(),
        survival=Survival(folder),
        callbacks=[MetricsFile(folder / "metrics.csv"), TensorBoard(folder / "tensorboard")],
    )
    return folder, model, end


def _rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_a_resumed_run_is_the_same_bit_for_bit(undisturbed, tmp_path):
    _, whole, end = undisturbed
    options = {"epochs": 3, "validation": _validation()}
    for after in (5, 6):
        model = tiny.model()
        schedule = schedules.get("plateau", 0.1, 3, patience=1)
        survival = Survival(tmp_path, resume=True)
        stopped, _ = tiny.train(
            model, survival=survival, schedule=schedule, callbacks=[Stop(after, _interrupt)], **options
        )
        assert not stopped.finished
    assert stopped.updates == 11 and stopped.step == 4
    model = tiny.model()
    schedule = schedules.get("plateau", 0.1, 3, patience=1)
    resumed, lines = tiny.train(model, survival=Survival(tmp_path, resume=True), schedule=schedule, **options)
    assert "epoch 2, batch 5" in lines[0]
    assert resumed.finished and resumed.best_error == end.best_error
    for ours, theirs in zip(model.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(resumed.history, end.history, strict=True):
        timed = {"seconds", "images_per_second"}
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}


def test_a_part_of_an_epoch_is_told_of_and_completed_by_a_resumed_run(undisturbed, tmp_path):
    folder, whole, _ = undisturbed
    for updates, epochs in ((10, 2), (None, 3)):
        model, file = tiny.model(), MetricsFile(tmp_path / "metrics.csv")
        schedule, survival = schedules.get("plateau", 0.1, 3, patience=1), Survival(tmp_path, resume=True)
        options = {"epochs": 3, "validation": _validation(), "max_updates": updates, "callbacks": [file]}
        end, _ = tiny.train(model, survival=survival, schedule=schedule, **options)
        rows = _rows(tmp_path)
        assert end.finished and len(rows) == len(end.history) == epochs
        assert all(row["loss"] and row["val_error"] for row in rows)
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in _rows(folder)]
    np.testing.assert_array_equal(tiny.weights(model), tiny.weights(whole))


def test_a_part_of_an_epoch_may_be_the_best_also_of_a_run_resumed_with_nothing_left_to_do(tmp_path):
    for _ in range(2):
        survival, options = Survival(tmp_path, resume=True), {"epochs": 3, "max_updates": 4}
        end, _ = tiny.train(tiny.model(), validation=_validation(), survival=survival, **options)
        (part,) = end.history
        assert (end.best_epoch, end.best_error) == (0, part["val_error"])


def test_ctrl_c_in_the_last_batch_of_all_leaves_nothing_undone(tmp_path):
    end, _ = tiny.train(tiny.plain_model(), epochs=1, survival=Survival(tmp_path), callbacks=[Stop(7, _interrupt)])
    assert end.finished and end.epoch == 1


def test_without_validation_no_epoch_is_the_best(tmp_path):
    end, _ = tiny.train(tiny.plain_model(), survival=Survival(tmp_path))
    assert end.best_epoch is None and Checkpoints(tmp_path / "checkpoints").best() is None


def test_validation_that_can_be_gone_through_only_once_is_a_mistake():
    with pytest.raises(UsageError, match="validation gave no images"):
        tiny.train(tiny.plain_model(), validation=iter(_validation()))


def test_what_a_killed_write_left_aside_is_deleted(tmp_path):
    aside = tmp_path / "checkpoints" / ".step-000000007-0123456789abcdef.npz.x1"
    aside.parent.mkdir()
    aside.write_bytes(b"half")
    tiny.train(tiny.plain_model(), epochs=1, survival=Survival(tmp_path))
    assert not aside.exists()


def test_a_run_that_goes_on_has_a_folder():
    with pytest.raises(UsageError, match="resume is True, but folder is None"):
        tiny.train(tiny.plain_model(), survival=Survival(resume=True))


def test_a_checkpoint_of_another_model_is_refused(undisturbed):
    folder, _, _ = undisturbed
    with pytest.raises(RunError, match="another model"):
        tiny.train(tiny.plain_model(), survival=Survival(folder, resume=True))


def test_the_second_run_into_a_folder_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="in use"):
        tiny.train(tiny.plain_model(), survival=Survival(tmp_path))


def test_best_weights_are_those_of_the_lowest_validation_error(undisturbed):
    folder, _, end = undisturbed
    _, note, _ = Checkpoints(folder / "checkpoints").best()
    errors = [row["val_error"] for row in end.history]
    assert note == {"epoch": int(np.argmin(errors)) + 1, "error": min(errors)}


def test_metrics_csv_has_a_row_an_epoch(undisturbed):
    folder, _, end = undisturbed
    rows = _rows(folder)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["val_error"]) for row in rows] == [row["val_error"] for row in end.history]
    assert {"loss", "accuracy", "val_loss", "learning_rate", "seconds", "skipped"} <= rows[0].keys()


def test_tensorboard_files_hold_every_scalar(undisturbed):
    folder, _, end = undisturbed
    (file,) = (folder / "tensorboard").iterdir()
    seen = {}
    for record in tf.compat.v1.io.tf_record_iterator(str(file)):
        for value in tf.compat.v1.Event.FromString(record).summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            seen.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    assert seen["val_error"] == pytest.approx([row["val_error"] for row in end.history])
    assert {"loss", "learning_rate"} <= seen.keys()


@pytest.mark.parametrize("parts", [3, 100])
def test_accumulation_leaves_the_update_as_it_is(parts):
    results = []
    for accumulate in (1, parts):
        model = tiny.plain_model()
        tiny.train(model, epochs=1, accumulate=accumulate)
        results.append(tiny.weights(model))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_the_images_not_over_the_batches():
    model = tiny.plain_model()
    end, _ = tiny.train(model, epochs=1, rate=1e-12)
    loss, accuracy = model.evaluate(tiny.IMAGES, tiny.LABELS, batch_size=52, verbose=0)
    assert end.history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert end.history[0]["accuracy"] == pytest.approx(accuracy)


def _poisoned(epoch, step):
    for number, (x, y) in enumerate(tiny.batches(epoch, step), step):
        yield (x * np.nan if number == 2 else x), y


def test_a_batch_that_fails_stops_the_run_with_one_line(tmp_path):
    model = tiny.model()
    survival = Survival(tmp_path, checkpoint_minutes=1e-9)
    with pytest.raises(RunError, match=r"epoch 1, batch 3: the loss is nan; the last good checkpoint"):
        tiny.train(model, train=_poisoned, survival=survival)
    assert Checkpoints(tmp_path / "checkpoints").newest()[1]["updates"] == 2


def test_a_batch_that_fails_can_be_dropped_without_a_trace(tmp_path):
    def without(epoch, step):
        return (batch for number, batch in enumerate(tiny.batches(epoch, step)) if number != 2)

    dropping, sparing = tiny.model(), tiny.model()
    end, lines = tiny.train(dropping, train=_poisoned, survival=Survival(on_nan="skip"), epochs=1)
    tiny.train(sparing, train=without, epochs=1)
    assert end.skipped == 1 and "batch dropped" in lines[0]
    for ours, theirs in zip(dropping.variables, sparing.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


class Refusing(keras.layers.Layer):
    """Raises as stock TFP's solver does, at any pixel that is not a number."""

    def call(self, x):
        check = tf.debugging.assert_less(tf.reduce_sum(x), 1e6, "max_num_steps exceeded")
        with tf.control_dependencies([check]):
            return tf.identity(x)


def test_a_batch_whose_solve_raises_is_one_that_fails():
    inner = tiny.plain_model()
    model = keras.Sequential([keras.Input((6, 6, 1)), Refusing(), inner])
    stopped = r"epoch 1, batch 3: .*: 8 solves stopped: max_num_steps exceeded[^\n]*--on_nan=skip[^\n]*$"
    with pytest.raises(Diverged, match=stopped):
        tiny.train(model, epochs=1, train=_poisoned)
    validation = [*_validation(), (tf.constant(tiny.IMAGES[20:] * np.nan), tf.constant(tiny.LABELS[20:]))]
    end, lines = tiny.train(
        model, epochs=1, train=_poisoned, validation=validation, survival=Survival(on_nan="skip"), max_updates=4
    )
    assert end.skipped == 1 and "batch dropped" in lines[0] and "32 of 52 images count as wrong" in lines[1]
    assert end.history[0]["val_accuracy"] <= 20 / 52


def test_a_users_callbacks_see_what_keras_would_show_them():
    class Watch(keras.callbacks.Callback):
        seen = []

        def on_epoch_begin(self, epoch, logs=None):
            self.seen.append(("epoch", epoch))
            self.model.optimizer.learning_rate = 0.05 / (epoch + 1)

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(("batch", batch, sorted(logs)))

        def on_test_begin(self, logs=None):
            self.seen.append(("test", self.params["steps"]))

        def on_test_end(self, logs=None):
            self.seen.append(("tested", sorted(logs)))

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(("end", {"loss", "accuracy", "val_loss", "val_accuracy"} <= logs.keys()))
            self.model.stop_training = epoch == 1

    watch = Watch()
    end, _ = tiny.train(tiny.plain_model(), epochs=9, validation=_validation(), callbacks=[watch], steps=7)
    names = ["accuracy", "images_per_second", "loss"]
    epoch = [("batch", number, names) for number in range(7)]
    epoch += [("test", 7), ("tested", ["accuracy", "loss"]), ("end", True)]
    assert watch.seen == [("epoch", 0), *epoch, ("epoch", 1), *epoch]
    assert [row["learning_rate"] for row in end.history] == pytest.approx([0.05, 0.025])


def test_keras_own_callbacks_work(tmp_path, capsys):
    path = tmp_path / "user.keras"
    model = tiny.plain_model()
    callbacks = [
        keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1),
        keras.callbacks.ProgbarLogger(),
    ]
    end, _ = tiny.train(model, epochs=9, validation=_validation(), callbacks=callbacks)
    assert len(end.history) == 2 and path.exists() and "Epoch 2/9" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"loss": Madry(eps=0.1, steps=2)}])
def test_it_learns_in_other_ways_too(options):
    model = tiny.plain_model()
    end, _ = tiny.train(model, epochs=5, **options)
    assert end.history[-1]["loss"] < end.history[0]["loss"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_weights_and_close_losses(policy):
    reference, _ = tiny.train(tiny.plain_model())
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny.plain_model()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = SGD(0.1, l2=1e-3)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    end, _ = tiny.train(model, optimizer=optimizer, loss=CrossEntropy())
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert end.history[-1]["loss"] == pytest.approx(reference.history[-1]["loss"], rel=0.02)


@pytest.mark.parametrize("left", ["model.keras", "metrics.csv"])
def test_a_training_that_came_far_does_not_start_anew_without_its_checkpoints(tmp_path, left):
    (tmp_path / left).write_text("epoch,loss\n1,0.5\n2,0.4\n")
    with pytest.raises(RunError, match="no checkpoint to go on from: --overwrite"):
        tiny.train(tiny.plain_model(), survival=Survival(tmp_path, resume=True), epochs=3)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [left]


@pytest.mark.parametrize("name, value", [("epochs", 5.5), ("epochs", 0), ("max_updates", 2.5)])
def test_epochs_are_whole(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        tiny.train(tiny.plain_model(), **{"epochs": 1, name: value})


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_beyond_all_bounds_are_one_line(digits):
    with pytest.raises(UsageError, match=r"epochs is a number of \d+ bits"):
        tiny.train(tiny.plain_model(), epochs=10**digits)


def test_a_fresh_folder_has_no_checkpoint_to_miss(tmp_path):
    _, lines = tiny.train(tiny.plain_model(), survival=Survival(tmp_path / "trial", resume=True), epochs=1)
    assert lines == []
