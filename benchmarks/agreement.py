"""Ours beside the papers' programs on weights and images drawn anew: logits, evaluations, the input's gradient.

    python benchmarks/agreement.py --seeds=12

The programs are PyTorch over torchdiffeq 0.0.1, one image at a time; ours takes the images as a batch, its gradient
is `backprop_steps`, as theirs. About ten minutes for twelve seeds.
"""

import numpy as np
import papers
import tensorflow as tf
import torch
from absl import app, flags
from torch_gradient import differentiate
from torch_oon import TorchOON, as_torch
from torch_sonet import TorchSONet

import tfode_adv as ta
from tfode_adv.analysis.gradients import cosine
from tfode_adv.interop.names import model_names, torch_name

flags.DEFINE_integer("seeds", 12, "Draws of weights and images.", lower_bound=1)
flags.DEFINE_multi_enum("only", ["oon", "sonet", "sonet_2x"], ["oon", "sonet", "sonet_2x"], "Which models.")
FLAGS = flags.FLAGS

IMAGES = 2
# Name, family, sizes and tolerances.
MODELS = (
    ("oon", "oon", {"input_shape": (28, 28, 1), "filters": 64}, (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)),
    ("sonet", "sonet", {"input_shape": (32, 32, 3), "filters": 16, "blocks": [1, 1, 1, 1]}, (1e-3, 0.1, 1.0)),
    ("sonet_2x", "sonet", {"input_shape": (32, 32, 3), "filters": 8, "blocks": [2, 2, 2, 2]}, (0.1,)),
)


def draw(model, family, sizes, seed):
    """Gives `model` PyTorch's weights, and norms off their start; returns images NHWC and labels."""
    random = np.random.RandomState(seed)
    tf.keras.utils.set_random_seed(seed)
    model.set_weights(ta.models.build(family, num_classes=10, **sizes).get_weights())
    for variable in model_names(model).values():
        if variable.name in ("gamma", "beta"):
            around = 1.0 if variable.name == "gamma" else 0.0
            variable.assign(around + 0.2 * random.randn(*variable.shape))
    x = random.uniform(size=(IMAGES, *sizes["input_shape"])).astype(np.float32)
    return x, random.randint(10, size=IMAGES)


class Counting:
    """A torchdiffeq that counts the evaluations of what it integrates."""

    def __init__(self, library):
        self.library, self.evaluations = library, 0

    def odeint(self, dynamics, *arguments, **options):
        def counted(t, state):
            self.evaluations += 1
            return dynamics(t, state)

        return self.library.odeint(counted, *arguments, **options)


def theirs(family, model, tol, x, y):
    """Logits, evaluations and gradients, NHWC, of the PyTorch program."""
    library = Counting(papers.torchdiffeq())
    if family == "oon":
        program = TorchOON(model, tol, False, library)
    else:
        state = {torch_name(k, family): as_torch(v.numpy()) for k, v in model_names(model).items()}
        program = TorchSONet(state, tol, library)
    # Contiguous, as the programs' images: other strides, other kernels, other rounding.
    images, answers, evaluations = torch.tensor(x.transpose(0, 3, 1, 2).copy()), [], []
    for pair in zip(images.split(1), torch.tensor(y).split(1), strict=True):
        library.evaluations = 0
        answers.append(differentiate(program, *pair))
        evaluations.append(library.evaluations)
    logits, gradients = (torch.cat(part).numpy() for part in zip(*answers, strict=True))
    return logits, np.array(evaluations), gradients.transpose(0, 2, 3, 1)


def ours(model, x, y):
    """Logits, evaluations and gradients."""
    with tf.GradientTape() as tape, ta.layers.record_statistics() as records:
        tape.watch(x)
        logits = model(x, training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return logits, sum(statistics.nfe for _, statistics in records), tape.gradient(loss, x)


def compare(family, model, tol, x, y):
    """Largest difference of logits, whether the evaluations are equal, and the gradients' cosines, an image each."""
    ta.models.set_solver(model, tol=tol, gradient="backprop_steps")
    (a, n, g), (b, m, h) = ours(model, tf.constant(x), tf.constant(y)), theirs(family, model, tol, x, y)
    return np.abs(a - b).max(1), n.numpy() == m, cosine(g.numpy(), h)


def main(argv):
    del argv
    torch.set_num_threads(1)
    for name, family, sizes, tols in MODELS:
        if name not in FLAGS.only:
            continue
        found = {tol: [] for tol in tols}
        model = ta.models.build(family, num_classes=10, **sizes)
        for seed in range(FLAGS.seeds):
            drawn = draw(model, family, sizes, seed)
            for tol in tols:
                found[tol].append(compare(family, model, tol, *drawn))
        for tol, rows in found.items():
            logits, equal, cosines = (np.concatenate(column) for column in zip(*rows, strict=True))
            print(
                f"{name}, tau = {tol:g}: {len(logits)} images; logits differ by {np.median(logits):.0e} in the median, "
                f"{logits.max():.1e} at most; evaluations equal: {equal.sum()}; "
                f"cosine {cosines.min():.5f} at least, above 0.999: {(cosines > 0.999).sum()}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
