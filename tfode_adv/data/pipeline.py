"""Batches of images and labels; the order of an epoch depends on the seed and the epoch's number alone.

A data set is read once a process and kept as bytes in memory; an epoch is a permutation of indices,
and a batch gathers its images. So a run that was killed goes on in the middle of an epoch at no cost.
"""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.data import augment as augmentation
from tfode_adv.data.catalog import VALIDATION, Source, source
from tfode_adv.errors import RunError, UsageError, check_choice, check_range
from tfode_adv.files import PathLike
from tfode_adv.progress import bar

SPLITS = ("train", "validation", "test")
MEMORY_LIMIT = 8 * 2**30
_READ_BATCH = 500
# Keeps the random numbers of shuffling, augmenting and reshuffling apart.
_ORDER, _AUGMENT, _EPOCHS = 0, 1, 2


def load(
    name: str,
    split: str = "train",
    *,
    batch_size: int = 128,
    augment: str = "none",
    seed: int = 0,
    num_examples: int | None = None,
    validation: float = VALIDATION,
    split_seed: int = 0,
    shuffle: bool | None = None,
    epoch: int | None = None,
    step: int = 0,
    repeat: bool = False,
    drop_remainder: bool = False,
    data_dir: PathLike | None = None,
    download: bool = True,
) -> tf.data.Dataset:
    """Batches of (images, labels): float32 [B, H, W, C] in [0, 1] and int64 [B].

    Args:
        name: a name in `available()`, another TFDS image classification set, or "folder:PATH".
        split: "train", "validation" (held out of TFDS's train split) or "test".
        batch_size: images a batch, at least 1; the last batch of an epoch may be smaller.
        augment: "none", "crop+flip", "crop+flip+jitter" or "noise", see `augment_image`.
        seed: where the random numbers of the order and of the augmentation start.
        num_examples: keep only the first of the split; None for all.
        validation: share of TFDS's train split held out for validation, in [0, 1).
        split_seed: which images are held out; the same for every run unless said otherwise.
        shuffle: whether each epoch has its own random order; by default only for "train".
        epoch: which epoch, from 0: the same order and augmentation whenever it is asked for. None: a
            new one at each iteration over the data set, the same ones after each start of the program.
        step: batches left out at the beginning of `epoch`.
        repeat: whether epochs `epoch` + 1, ... follow without end.
        drop_remainder: whether to leave out a last, smaller batch.
        data_dir: where TFDS data sets are prepared; None for TFDS's own default.
        download: whether a set that is not prepared is downloaded, as `tfds.load` does; False refuses it.

    Raises:
        UsageError: for an unknown name or a value out of range.
        RunError: if the files are not there or cannot be read.
    """
    check_range("batch_size", batch_size, low=1)
    check_range("step", step, low=0)
    if epoch is None and (step or repeat):
        raise UsageError("step and repeat need an epoch to start from")
    found = source(name, data_dir, download)
    augmentation.check(augment, found.info.image_shape)
    images, labels = _split_bytes(found, split, num_examples, validation, split_seed)
    shuffle = split == "train" if shuffle is None else shuffle
    images, labels = tf.constant(images), tf.constant(labels)

    def batches(number: tf.Tensor, skipped: tf.Tensor | int = 0) -> tf.data.Dataset:
        indices = tf.range(tf.shape(labels, tf.int64)[0])
        if shuffle:
            indices = tf.random.experimental.stateless_shuffle(indices, seed=_fold(seed, _ORDER, number))
        indices = indices[skipped * batch_size :]
        epoch_batches = tf.data.Dataset.from_tensor_slices(indices).batch(batch_size, drop_remainder)
        return epoch_batches.map(lambda batch: (number, batch))

    def gather(number: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.cast(tf.gather(images, indices), tf.float32) / 255.0
        if augment != "none":
            key = _fold(seed, _AUGMENT, number)
            batch = tf.map_fn(
                lambda one: augmentation.augment_image(
                    one[0], augment, tf.random.experimental.stateless_fold_in(key, one[1])
                ),
                (batch, indices),
                fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
            )
        return batch, tf.gather(labels, indices)

    if epoch is None:
        numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
        order = numbers.flat_map(batches)
    else:
        order = batches(tf.constant(epoch, tf.int64), step)
        if repeat:
            later = tf.data.Dataset.range(epoch + 1, np.iinfo(np.int64).max).flat_map(batches)
            order = order.concatenate(later)
    left = max(int(labels.shape[0]) - step * batch_size, 0)
    count = tf.data.INFINITE_CARDINALITY if repeat else left // batch_size if drop_remainder else -(-left // batch_size)
    # TensorFlow cannot count what `flat_map` makes, and Keras warns of an epoch that ends unforeseen.
    order = order.apply(tf.data.experimental.assert_cardinality(count))
    gathered = order.map(gather, num_parallel_calls=os.cpu_count() or 1, deterministic=True).prefetch(2)
    options = tf.data.Options()
    # An autotuned iterator that has run for long may take the better part of a minute to close, idle.
    options.autotune.enabled = False
    return gathered.with_options(options)


def arrays(
    name: str,
    split: str = "test",
    num_examples: int | None = None,
    data_dir: PathLike | None = None,
    *,
    validation: float = VALIDATION,
    split_seed: int = 0,
    download: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The first images and labels of a split, always in the same order: float32 [N, H, W, C], int64 [N].

    The arguments and errors are those of `load`.
    """
    found = source(name, data_dir, download)
    images, labels = _split_bytes(found, split, num_examples, validation, split_seed)
    return images.astype(np.float32) / np.float32(255), labels


def _fold(seed: int, purpose: int, number: tf.Tensor) -> tf.Tensor:
    key = tf.constant([seed, purpose], tf.int64)
    return tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64))


def _split_bytes(
    found: Source, split: str, num_examples: int | None, validation: float, split_seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] uint8 and labels [N] of one of our splits."""
    check_choice("split", split, SPLITS)
    check_range("validation", validation, low=0, high=1, high_open=True)
    size = found.info.num_examples(split, validation)
    if not size:
        raise UsageError(f"split {split!r} of {found.info.name!r} is empty (validation is {validation:g})")
    if num_examples is not None:
        check_range("num_examples", num_examples, low=1, high=size)
    images, labels = _read(found, "test" if split == "test" else "train")
    if split != "test":
        order = np.random.default_rng(split_seed).permutation(len(labels))
        held_out = len(labels) - found.info.num_examples("train", validation)
        # In the order of the files, so that the order does not depend on what is held out.
        chosen = np.sort(order[:held_out] if split == "validation" else order[held_out:])
        images, labels = images[chosen], labels[chosen]
    return images[:num_examples], labels[:num_examples]


def _place(builder: Any) -> str:
    """Where a builder reads from, as the user knows it: a folder of images is read through links."""
    return repr(str(builder.folder if hasattr(builder, "folder") else builder.data_dir))


@functools.lru_cache(maxsize=4)
def _read(found: Source, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All of TFDS's "train" or "test", decoded: images [N, H, W, C] uint8 and labels [N]."""
    builder, info = found.builder, found.info
    size = info.sizes[split]
    if size * np.prod(info.image_shape) > MEMORY_LIMIT:
        raise RunError(f"{info.name!r} is too large: its {size} images of {info.image_shape} must fit in memory")
    images, labels = np.empty((size, *info.image_shape), np.uint8), np.empty(size, np.int64)
    image_key, label_key = found.keys
    examples = builder.as_dataset(split=found.splits[split], shuffle_files=False)
    pairs = examples.map(lambda example: (example[image_key], example[label_key]))
    start = 0
    try:
        with bar(total=size, desc=f"reading {info.name} {split}", unit="image") as progress:
            for some, theirs in pairs.batch(_READ_BATCH).prefetch(2).as_numpy_iterator():
                images[start : start + len(some)], labels[start : start + len(some)] = some, theirs
                start += len(some)
                progress.update(len(some))
    except (tf.errors.OpError, ValueError) as error:
        # TensorFlow does not say which image it could not decode.
        reason = getattr(builder, "damaged", lambda: None)() or str(error).strip().partition("\n")[0]
        raise RunError(f"dataset {info.name!r} cannot be read from {_place(builder)}: {reason}") from error
    if start != size:
        raise RunError(f"dataset {info.name!r}: {start} of {size} images found under {_place(builder)}")
    return images, labels
