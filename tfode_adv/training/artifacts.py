"""What a finished training leaves: a Keras model, its weights, and a SavedModel for other programs."""

import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import RunError
from tfode_adv.files import PathLike, sha256
from tfode_adv.layers import solver_settings
from tfode_adv.run_folder import CONFIG, MODEL, Run

WEIGHTS, SAVED_MODEL = "model.weights.h5", "saved_model"
_ASIDE = ".export."
# How the system, TensorFlow and h5py, whose errors have no kind of their own, say that a disk is full.
_UNWRITTEN = (OSError, RuntimeError, tf.errors.OpError)


def export(model: keras.Model, folder: PathLike) -> None:
    """Writes `model.weights.h5`, `saved_model/` and, last, `model.keras` into `folder`.

    Each is written aside and renamed; `model.keras` marks the run as finished, and is bound to it by its checksum in
    the run's `config.json`, if there is one. What is written is a copy
    of the model outside any `tf.distribute` scope and without the optimiser.

    Raises:
        RunError: if the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    for killed in folder.glob(f"{_ASIDE}*"):
        shutil.rmtree(killed, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=_ASIDE) as aside:
            aside = pathlib.Path(aside)
            plain.save_weights(aside / WEIGHTS)
            serving = Serving(plain)
            # What serves needs no gradient, and an ODE block's captures the loop that it replays.
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
            tf.saved_model.save(serving, str(aside / SAVED_MODEL), serving.serve, options)
            plain.save(aside / MODEL)
            shutil.rmtree(folder / SAVED_MODEL, ignore_errors=True)
            if (folder / CONFIG).exists():
                Run.open(folder).bind(sha256(aside / MODEL))
            for name in (WEIGHTS, SAVED_MODEL, MODEL):
                (aside / name).replace(folder / name)
    except _UNWRITTEN as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise RunError(f"cannot write the model to {str(folder)!r}: {reason}") from error


def exported(model: keras.Model, folder: PathLike) -> bool:
    """Whether `folder` holds a whole `model.keras` with just the model's weights."""
    try:
        found = Run(folder, {}).load_model()
    except RunError:
        return False
    ours, theirs = model.get_weights(), found.get_weights()
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


class Serving(tf.Module):
    """A model as a SavedModel: signature `serving_default`, images and a tolerance to logits.

    Inputs `images` float32 [B, H, W, C] in [0, 1] and `tol` float32 [], the solver's rtol = atol, which
    models without ODE blocks ignore; output `logits` float32 [B, classes].
    """

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model = model
        images = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="images")
        self.serve = tf.function(self._serve, input_signature=[images, tf.TensorSpec([], tf.float32, name="tol")])

    def _serve(self, images: tf.Tensor, tol: tf.Tensor) -> dict[str, tf.Tensor]:
        with solver_settings(tol=tol):
            return {"logits": tf.cast(self.model(images, training=False), tf.float32)}
