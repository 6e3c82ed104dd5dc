"""What a training shows and writes as it goes: a progress bar, `metrics.csv`, TensorBoard."""

import csv
import io
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.files import PathLike, write_atomic
from tfode_adv.progress import bar
from tfode_adv.training.state import State


class Watcher(keras.callbacks.Callback):
    """A Keras callback that `training.fit` also lets see where the training stands.

    Attributes:
        state: set before the training begins.
    """

    state: State | None = None


class ProgressBar(Watcher):
    """A bar an epoch: loss, accuracy, evaluations of the dynamics, images a second.

    Args:
        epochs: how many the whole training has.
        batches: how many an epoch has.
    """

    def __init__(self, epochs: int, batches: int):
        super().__init__()
        self.epochs, self.batches = epochs, batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._bar = bar(total=self.batches, desc=f"epoch {epoch + 1}/{self.epochs}", unit="batch")
        self._bar.update(self.state.step)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.set_postfix(_shown(logs), refresh=False)
        self._bar.update(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.close()
        shown = ", ".join(f"{key} {value}" for key, value in _shown(logs).items())
        print(f"epoch {epoch + 1}/{self.epochs}: {shown}, {logs['seconds']:.0f} s", flush=True)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()


# What the bar and its last line show: the log's name, the bar's, the format.
_SHOWN = (
    ("loss", "loss", "{:.4f}"),
    ("accuracy", "acc", "{:.2%}"),
    ("nfe", "nfe", "{:.1f}"),
    ("nfe_backward", "nfe-b", "{:.1f}"),
    ("images_per_second", "img/s", "{:.0f}"),
    ("val_loss", "val loss", "{:.4f}"),
    ("val_error", "val error", "{:.2%}"),
    ("val_nfe", "val nfe", "{:.1f}"),
    ("learning_rate", "lr", "{:g}"),
)


def _shown(logs: dict[str, float] | None) -> dict[str, str]:
    return {label: form.format(logs[key]) for key, label, form in _SHOWN if key in (logs or {})}


class MetricsFile(Watcher):
    """Keeps `path`, a CSV file of the epochs' logs, a row each; a resumed training's is as one's left alone."""

    def __init__(self, path: PathLike):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        columns = list(dict.fromkeys(key for row in self.state.history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state.history)
        write_atomic(self.path, text.getvalue())


class TensorBoard(Watcher):
    """Event files for TensorBoard: each epoch's logs as scalars, its samples' evaluations as a histogram.

    The files are written by TensorFlow alone; `tf.summary.scalar` would need the tensorboard package.
    """

    def __init__(self, folder: PathLike):
        super().__init__()
        self.folder = str(folder)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._writer = tf.summary.create_file_writer(self.folder)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with self._writer.as_default(step=epoch + 1):
            for key, value in logs.items():
                _write(key, "scalars", tf.constant(value, tf.float32))
            if self.state.sums.nfe is not None:
                _write("nfe_per_sample", "histograms", _histogram(self.state.sums.nfe))
        self._writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._writer.close()


# TensorBoard's SummaryMetadata.data_class: scalars are one number, histograms a tensor of buckets.
_DATA_CLASS = {"scalars": 1, "histograms": 2}


def _write(tag: str, plugin: str, value: Any) -> None:
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": plugin}, data_class=_DATA_CLASS[plugin])
    tf.summary.write(tag, value, metadata=metadata)


def _histogram(values: np.ndarray) -> tf.Tensor:
    """[buckets, 3]: each bucket's left edge, right edge and count; at most 30 buckets."""
    counts, edges = np.histogram(values, bins=min(30, int(np.ptp(values)) + 1))
    return tf.constant(np.stack([edges[:-1], edges[1:], counts], axis=1), tf.float64)
