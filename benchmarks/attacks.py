"""PGD-10 on a trained OON: ours in batches, against the published protocol and against a batched torchdiffeq.

    python benchmarks/attacks.py --run=runs/wifs2019-mnist-oon --data_dir=DIR

One process, the same weights, the same images. The published protocol attacks one image at a time, with a
forward pass after each step and torchdiffeq's adjoint; it is timed on the first --num_single images, with
torchdiffeq 0.0.1, the papers' version, and with the one that is installed. Batched torchdiffeq backpropagates and
takes all steps with all images. Programs are traced before the clock starts.
"""

import time

import numpy as np
import papers
import tensorflow as tf
import torch
import torchdiffeq
from absl import app, flags
from torch_bim import ascend, to_first_success, wrong
from torch_oon import TorchOON

import tfode_adv as ta
from tfode_adv.run_folder import Run

flags.DEFINE_string("run", None, "Run folder of a trained OON; default: the newest.")
flags.DEFINE_string("data_dir", None, "Where TFDS data sets are prepared.")
flags.DEFINE_integer("num_examples", 256, "Test images attacked.", lower_bound=1)
flags.DEFINE_integer("num_single", 16, "Of these, by the published protocol.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images at once.", lower_bound=1)
flags.DEFINE_float("tol", 1e-3, "Tolerance of every solver.")
flags.DEFINE_enum("norm", "linf", ["linf", "l2rms"], "Norm.")
flags.DEFINE_float("eps", 0.1, "Radius.")
flags.DEFINE_float("step_size", 0.05, "Step size.")
flags.DEFINE_integer("steps", 10, "Steps.")
FLAGS = flags.FLAGS


def ours(model, x, y, gradient):
    """Returns success [N] and seconds of the package's attack."""
    attack = ta.attacks.BIM(
        norm=FLAGS.norm,
        eps=FLAGS.eps,
        step_size=FLAGS.step_size,
        steps=FLAGS.steps,
        batch_size=FLAGS.batch_size,
        source=ta.attacks.Through(gradient=gradient) if gradient else None,
    )
    attack(model, x[: FLAGS.batch_size], y[: FLAGS.batch_size])
    start = time.perf_counter()
    result = attack(model, x, y)
    return result.success, time.perf_counter() - start


def ball():
    return {"norm": FLAGS.norm, "eps": FLAGS.eps, "step_size": FLAGS.step_size}


def published(model, x, y):
    """Returns success [N] and seconds of the published protocol: one image at a time, to its first success."""
    start = time.perf_counter()
    success = [to_first_success(model, x[i : i + 1], y[i : i + 1], FLAGS.steps, **ball())[1] for i in range(len(x))]
    return np.array(success), time.perf_counter() - start


def batched(model, x, y):
    """Returns success [N] and seconds of the same attack on batches, all steps with all images."""
    start = time.perf_counter()
    success = []
    for images, labels in zip(x.split(FLAGS.batch_size), y.split(FLAGS.batch_size), strict=True):
        x_adv = images
        for _ in range(FLAGS.steps):
            x_adv = ascend(model, images, x_adv, labels, **ball())
        success.append(wrong(model, x_adv, labels).numpy())
    return np.concatenate(success), time.perf_counter() - start


def main(argv):
    del argv
    run = Run.open(FLAGS.run) if FLAGS.run else Run.newest()
    dataset = run.config["dataset"]["name"]
    model = run.load_model()
    ta.models.set_solver(model, solver="dopri5", tol=FLAGS.tol, gradient="backprop")
    x, y = ta.data.arrays(dataset, "test", FLAGS.num_examples, data_dir=FLAGS.data_dir)
    right = model.predict(x, batch_size=FLAGS.batch_size, verbose=0).argmax(-1) == y
    x_torch, y_torch = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)
    single = min(FLAGS.num_single, len(x))
    check(model, x_torch[:4], x[:4])

    rows = {
        "ours, batched, backprop": ours(model, x, y, None),
        "ours, batched, adjoint": ours(model, x, y, "adjoint"),
        "torchdiffeq, batched, backprop": batched(TorchOON(model, FLAGS.tol, False), x_torch, y_torch),
    }
    for version, library in (("0.0.1", papers.torchdiffeq()), (torchdiffeq.__version__, torchdiffeq)):
        program = TorchOON(model, FLAGS.tol, True, library)
        rows[f"published: one at a time, adjoint of {version}"] = published(program, x_torch[:single], y_torch[:single])
    print(f"{run.path}: {FLAGS.norm}, eps {FLAGS.eps}, {FLAGS.steps} steps of {FLAGS.step_size}, tol {FLAGS.tol}")
    heads = ("images", "seconds", "images/s", "ours is", "success", f"of first {single}")
    print(" " * 48 + "".join(f"{head:>12}" for head in heads))
    fastest = len(x) / rows["ours, batched, backprop"][1]
    for name, (success, seconds) in rows.items():
        speed = len(success) / seconds
        turned = success[right[: len(success)]].mean()
        first = success[:single][right[:single]].mean()
        speeds = f"{len(success):12}{seconds:12.1f}{speed:12.3f}{fastest / speed:11.1f}x"
        print(f"{name:48}{speeds}{turned:12.3f}{first:12.3f}")


def check(model, x_torch, x):
    """Stops if the two programs do not compute the same logits."""
    with torch.no_grad():
        theirs = torch.cat([TorchOON(model, FLAGS.tol, False)(image[None]) for image in x_torch]).numpy()
    np.testing.assert_allclose(model(tf.constant(x), training=False), theirs, atol=5e-3)


if __name__ == "__main__":
    app.run(main)
