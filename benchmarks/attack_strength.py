"""APGD, Square and AutoAttack against the Adversarial Robustness Toolbox, an independent implementation.

    python benchmarks/attack_strength.py

One small convnet, trained on the MNIST sample for a few seconds; robust accuracies should agree within a point,
and the program ends with status 1 if one does not.
Their AutoAttack needs a module that they do not install, so ours stands beside the worst of all of theirs, and may
leave less than they do, but not a point more.
"""

import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
from art.estimators.classification import TensorFlowV2Classifier

import tfode_adv as ta

flags.DEFINE_integer("num_examples", 200, "Test images attacked.", lower_bound=1)
flags.DEFINE_float("eps", 0.1, "Radius, largest change.")
flags.DEFINE_integer("steps", 50, "Steps of the gradient attacks.")
flags.DEFINE_integer("queries", 500, "Queries of Square.")
FLAGS = flags.FLAGS
POINT = 0.01 + 1e-9
"""The most that two shares may differ, with room for their rounding."""


def trained(x, y):
    """Returns a convnet that maps 28 x 28 images to logits."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 4, strides=2, activation="relu"),
            layers.Conv2D(32, 4, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=5, batch_size=64, verbose=0)
    return model


def pairs(model, loss):
    """Returns by name the same attack twice: ours, and theirs as a function of images and labels."""
    classifier = TensorFlowV2Classifier(model, 10, (28, 28, 1), loss_object=loss, clip_values=(0, 1))
    eps, steps, queries = FLAGS.eps, FLAGS.steps, FLAGS.queries
    common = {"eps": eps, "norm": np.inf}

    def apgd(kind):
        return AutoProjectedGradientDescent(
            classifier,
            **common,
            eps_step=2 * eps,
            max_iter=steps,
            nb_random_init=1,
            loss_type=kind,
            batch_size=200,
            verbose=False,
        )

    square = SquareAttack(classifier, **common, max_iter=queries, nb_restarts=1, batch_size=200, verbose=False)
    return {
        "APGD, cross-entropy": (ta.attacks.APGD(eps=eps, steps=steps), apgd("cross_entropy")),
        "APGD, DLR": (ta.attacks.APGD(eps=eps, steps=steps, loss="dlr"), apgd("difference_logits_ratio")),
        "Square": (ta.attacks.Square(eps=eps, steps=queries), square),
    }


def main(argv):
    del argv
    model = trained(*ta.data.arrays("mnist_5k", "train"))
    x, y = ta.data.arrays("mnist_5k", "test", FLAGS.num_examples)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print(f"{'robust accuracy, %':26}{'ours':>8}{'theirs':>8}{'seconds':>9}{'theirs':>8}")
    left, spent, apart = np.ones(len(x), bool), 0.0, []
    for name, (mine, theirs) in pairs(model, loss).items():
        ours, seconds = timed(lambda mine=mine: mine(model, x, y).success)
        x_adv, theirs_seconds = timed(lambda theirs=theirs: theirs.generate(x, tf.one_hot(y, 10).numpy()))
        robust = model.predict(x_adv, verbose=0).argmax(-1) == y
        left, spent = left & robust, spent + theirs_seconds
        line(name, 1 - ours.mean(), robust.mean(), seconds, theirs_seconds)
        if abs(1 - ours.mean() - robust.mean()) > POINT:
            apart.append(name)
    whole = ta.attacks.AutoAttack(eps=FLAGS.eps, steps=FLAGS.steps, queries_square=FLAGS.queries)
    ours, seconds = timed(lambda: whole(model, x, y).success)
    line("AutoAttack; all of theirs", 1 - ours.mean(), left.mean(), seconds, spent)
    if 1 - ours.mean() - left.mean() > POINT:
        apart.append("AutoAttack")
    if apart:
        sys.exit(f"more than a point apart: {', '.join(apart)}")


def timed(function):
    """Returns what `function` returns, and its seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def line(name, ours, theirs, seconds, theirs_seconds):
    """Prints a row of the table."""
    print(f"{name:26}{100 * ours:8.1f}{100 * theirs:8.1f}{seconds:9.1f}{theirs_seconds:8.1f}", flush=True)


if __name__ == "__main__":
    app.run(main)
