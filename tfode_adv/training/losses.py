"""What a training step minimises: cross-entropy, Madry's and TRADES' adversarial losses, TisODE's steadiness, SODEF's
stability, LyaNet's decay.

A loss is an object of hyperparameters with two steps, both of TensorFlow operations only, so that they
run inside a compiled training step:

* `loss.attack(infer, x, y, key)` -> images [B, H, W, C] to train on beside or instead of `x`, or whatever else the
  second step is to be handed for each image. `infer` maps images to logits in inference mode, x [B, H, W, C] in [0, 1],
  y [B], `key` [B] the samples' random keys.
* `loss(train, x, x_adv, y)` -> losses [B], logits [B, classes]. `train` maps images to logits in training
  mode; this is the step that is differentiated by the weights.

TensorFlow is imported by the steps: hyperparameters are checked without it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from tfode_adv.errors import UsageError, check_choice, check_range

# In shares of the final time; see `Steady`.
STEADY_BETWEEN = (0.9, 1.5)
Tensor = Any
Classifier = Callable[[Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy [B] of logits [B, classes] with labels [B].

    `smoothing` mixes the true label with the uniform distribution: (1 - smoothing) one-hot +
    smoothing / classes.
    """
    import tensorflow as tf

    logits = tf.cast(logits, tf.float32)
    if not smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    classes = logits.shape[-1]
    targets = tf.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B] of p from q in nats, from log-probabilities [B, classes]."""
    import tensorflow as tf

    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def _log_softmax(logits: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.nn.log_softmax(tf.cast(logits, tf.float32))


class Unattacked:
    """What the losses share that are of the images as they are."""

    def attack(self, infer: Classifier, x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        return x


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Unattacked):
    """Plain cross-entropy, with label smoothing in [0, 1)."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        check_range("label_smoothing", self.label_smoothing, low=0, high=1, high_open=True)

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = train(x)
        return cross_entropy(logits, y, self.label_smoothing), logits


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """What Madry's and TRADES' losses share: the ball and the ascent inside it.

    Attributes:
        norm: "linf" or "l2" (Euclidean).
        eps: radius of the ball, positive, in units of the images' [0, 1].
        step_size: length of a step of the ascent, in units of the images' [0, 1]; None: eps / 4 in L-infinity and
            2 eps / steps in L2, as TRADES has it.
        steps: how many steps the ascent takes, at least 1.
    """

    norm: str = "linf"
    eps: float = 0.031
    step_size: float | None = None
    steps: int = 10

    def __post_init__(self):
        check_choice("norm", self.norm, ("linf", "l2"))
        check_range("eps", self.eps, low=0, low_open=True, high=1e3)
        check_range("steps", self.steps, low=1)
        if self.step_size is not None:
            check_range("step_size", self.step_size, low=0, low_open=True, high=1e3)

    def ascend(self, objective: Callable[[Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
        """Images [B, H, W, C] of the ball about `x` that make `objective` (images -> [B]) large."""
        from tfode_adv.attacks.ascent import projected_ascent

        default = self.eps / 4 if self.norm == "linf" else 2 * self.eps / self.steps
        size = self.step_size or default
        return projected_ascent(
            objective, x, norm=self.norm, eps=self.eps, step_size=size, steps=self.steps, x_start=start
        )


@dataclasses.dataclass(frozen=True)
class Madry(Adversarial):
    """Cross-entropy on images attacked by PGD from a random start (Madry et al. 2018, section 2.1)."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_range("label_smoothing", self.label_smoothing, low=0, high=1, high_open=True)

    def attack(self, infer: Classifier, x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        from tfode_adv.attacks.ascent import random_start

        start = random_start(x, key, norm=self.norm, eps=self.eps)
        return self.ascend(lambda images: cross_entropy(infer(images), y), x, start)

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = train(x_adv)
        return cross_entropy(logits, y, self.label_smoothing), logits


@dataclasses.dataclass(frozen=True)
class Trades(Adversarial):
    """TRADES (Zhang et al. 2019, eq. 5 and algorithm 1): CE(f(x), y) + (1/lambda) KL(f(x) || f(x')).

    x' maximises the divergence from the natural images' distribution, held fixed, from a start at
    x + 0.001 N(0, 1). The loss itself is differentiated through both distributions, as in the authors'
    program.

    Attributes:
        inverse_lambda: the weight 1/lambda, positive; MSML 2022 used 1 and 6.
    """

    inverse_lambda: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        check_range("inverse_lambda", self.inverse_lambda, low=0, low_open=True, high=1e6)

    def attack(self, infer: Classifier, x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        import tensorflow as tf

        from tfode_adv.attacks import random_streams

        natural = tf.stop_gradient(_log_softmax(infer(x)))
        start = x + 0.001 * random_streams.normal(key, x.shape[1:])
        return self.ascend(lambda images: divergence(natural, _log_softmax(infer(images))), x, start)

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = train(x)
        gap = divergence(_log_softmax(logits), _log_softmax(train(x_adv)))
        return cross_entropy(logits, y) + self.inverse_lambda * gap, logits


class OfDynamics(Unattacked):
    """What the losses share that look at the dynamics of ODE blocks."""

    @property
    def name(self) -> str:
        """The loss's key of `LOSSES`."""
        return next(name for name, kind in LOSSES.items() if kind is type(self))

    def check(self, blocks: Sequence[Any]) -> None:
        """Checks that there is a dynamics to look at.

        Args:
            blocks: the model's ODE blocks.

        Raises:
            UsageError: if there is none.
        """
        if not blocks:
            raise UsageError(f"loss {self.name!r} is of the dynamics of ODE blocks, but the model has none")

    def with_starts(self, train: Classifier, x: Tensor) -> tuple[Tensor, list[Any]]:
        """Logits [B, classes], and for each ODE block the `Start`, of one state [B, ...], that it was called on."""
        import tensorflow as tf

        from tfode_adv.layers import record_starts

        with record_starts() as starts:
            logits = train(x)
        self.check(starts)
        if any(tf.nest.is_nested(start.state) for start in starts):
            raise UsageError(f"loss {self.name!r} takes ODE blocks whose state is one tensor")
        return logits, starts


@dataclasses.dataclass(frozen=True)
class Steady(OfDynamics):
    """TisODE's: cross-entropy, and 0.01 of how far ODE blocks' states move from just before to long after their end.

    Yan et al., "On Robustness of Neural Ordinary Differential Equations", ICLR 2020, section 4, with the times and the
    weight of the program published with it. Of a block's states h, integrated to T, the loss has beside cross-entropy

        0.01 mean_j |h_j(1.5 T) - h_j(0.9 T)|

    summed over the model's ODE blocks: of dynamics that let no part of the state fall, as TisODE's, the integral of |f|
    that the program takes. Steps of fixed size go on at that size.

    Attributes:
        weight: of the movement, positive; 0.01 by default.
    """

    weight: float = 0.01

    def __post_init__(self):
        check_range("weight", self.weight, low=0, low_open=True, high=1e6)

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits, starts = self.with_starts(train, x)
        return cross_entropy(logits, y) + self.weight * sum(self._movement(*start) for start in starts), logits

    def _movement(self, block: Any, state: Tensor, condition: Any) -> Tensor:
        import tensorflow as tf

        from tfode_adv.layers import solver_settings

        early, late = (share * block.final_time for share in STEADY_BETWEEN)
        with solver_settings(num_steps=math.ceil(STEADY_BETWEEN[1] * block.num_steps)):
            before, after = tf.unstack(block.trajectory(state, [early, late], True, condition))
        return tf.reduce_mean(_flat(tf.abs(after - before)), axis=-1)


@dataclasses.dataclass(frozen=True)
class Lyapunov(OfDynamics):
    """SODEF's: makes the states that ODE blocks start from stable equilibria of their dynamics; labels do not count.

    Kang et al., "Stable Neural ODE with Lyapunov-Stable Equilibrium Points for Defending Against Adversarial Attacks",
    NeurIPS 2021, with the weights and exponents of the program published with it. Of a state h, dynamics f and their
    Jacobian J, the loss is

        10 mean_j exp(J_jj + 1) + 10 mean_j exp((sum_{i != j} |J_ij| - |J_jj| + 1) / 10) + 0.2 mean_j (50 f_j)^2

    summed over the model's ODE blocks: a diagonal that is negative and dominates its columns, and a field at rest.

    Attributes:
        samples: of how many images of a batch (each replica's, each part's) J is computed, at least 1; the program
            draws eight of 32, this takes the first of a batch that was shuffled.
    """

    samples: int = 8

    def __post_init__(self):
        check_range("samples", self.samples, low=1)

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits, starts = self.with_starts(train, x)
        return sum(self._unrest(*start) for start in starts), logits

    def _unrest(self, block: Any, state: Tensor, condition: Any) -> Tensor:
        """The loss [B] of one block's dynamics at the states [B, ...]."""
        import tensorflow as tf

        rest = tf.reduce_mean(tf.square(50.0 * _flat(block.slope(1.0, state, condition=condition))), axis=-1)
        chosen = state[: self.samples]
        few = None if condition is None else tf.nest.map_structure(lambda each: each[: self.samples], condition)
        with tf.GradientTape() as tape:
            tape.watch(chosen)
            field = _flat(block.slope(1.0, chosen, condition=few))
        jacobian = tape.batch_jacobian(field, chosen)
        jacobian = tf.reshape(jacobian, [tf.shape(field)[0], field.shape[-1], field.shape[-1]])
        diagonal = tf.linalg.diag_part(jacobian)
        others = tf.reduce_sum(tf.abs(jacobian), axis=1) - 2.0 * tf.abs(diagonal)
        stable = 10.0 * tf.exp(diagonal + 1.0) + 10.0 * tf.exp(0.1 * (others + 1.0))
        return 0.2 * rest + tf.reduce_mean(stable)


@dataclasses.dataclass(frozen=True)
class LyapunovDecay(OfDynamics):
    """LyaNet's: makes the cross-entropy V of an ODE's state decay as V' <= -k V, wherever the state may be.

    Rodriguez, Ames, Yue, "LyaNet: A Lyapunov Framework for Training Neural ODEs", ICML 2022, by its Monte Carlo
    training, with the constants of the program published with it: of states h drawn in a ball of radius
    r = 15 sqrt(classes), their directions and lengths uniform, the loss is the mean of

        max(0, (softmax(h) - onehot(y)) . f(t, h) + k V(h, y)),   k = log r,

    at one time t drawn for each image. The ODE is not solved for it: the logits it returns are those of one step of
    Euler's method, and so is the accuracy of training.

    Attributes:
        samples: states drawn for each image, at least 1; 512 in that program, which draws them once a batch for all its
            images.
    """

    samples: int = 512

    def __post_init__(self):
        check_range("samples", self.samples, low=1)

    def attack(self, infer: Classifier, x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        """The images' random keys: nothing is attacked, but states are drawn."""
        return key

    def __call__(self, train: Classifier, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        import tensorflow as tf

        from tfode_adv.layers import solver_settings
        from tfode_adv.layers.simplex_dynamics import radius

        with solver_settings(solver="euler", num_steps=1):
            logits, starts = self.with_starts(train, x)
        if len(starts) > 1 or starts[0].state.shape[1:] != logits.shape[1:]:
            raise UsageError(f"loss {self.name!r} takes a model of one ODE block whose state is the logits")
        block, _, condition = starts[0]
        classes, farthest = logits.shape[-1], radius(logits.shape[-1])
        states, times = self._drawn(x_adv, classes, farthest, block.final_time)
        slope = block.slope(times, states, training=True, condition=condition)
        labels = tf.one_hot(y, classes)[:, None]
        potential = tf.nn.softmax_cross_entropy_with_logits(labels + tf.zeros_like(states), states)
        change = tf.reduce_sum((tf.nn.softmax(states) - labels) * tf.cast(slope, tf.float32), axis=-1)
        return tf.reduce_mean(tf.nn.relu(change + math.log(farthest) * potential), axis=-1), logits

    def _drawn(self, key: Tensor, classes: int, radius: float, final_time: float) -> tuple[Tensor, Tensor]:
        """States [B, samples, classes] in a ball, and times [B, 1, 1]."""
        import tensorflow as tf

        from tfode_adv.attacks import random_streams

        directions = tf.math.l2_normalize(random_streams.normal(key, (self.samples, classes)), axis=-1)
        drawn = random_streams.uniform(random_streams.fold(key, 3), (self.samples + 1, 1))
        return radius * drawn[:, 1:] * directions, final_time * drawn[:, :1]


def _flat(states: Tensor) -> Tensor:
    """States [B, ...] as vectors [B, D]."""
    import tensorflow as tf

    return tf.reshape(states, [tf.shape(states)[0], math.prod(states.shape[1:])])


Loss = CrossEntropy | Madry | Trades | Steady | Lyapunov | LyapunovDecay
LOSSES = {
    "cross_entropy": CrossEntropy,
    "madry": Madry,
    "trades": Trades,
    "steady": Steady,
    "lyapunov": Lyapunov,
    "lyapunov_decay": LyapunovDecay,
}


def get(name: str, **hyperparameters: Any) -> Loss:
    """The loss called `name`: a key of `LOSSES`; those given as None keep their default.

    Raises:
        UsageError: for an unknown name, a value out of range, or a hyperparameter the loss does not have.
    """
    kind = LOSSES[check_choice("loss", name, LOSSES)]
    given = {key: value for key, value in hyperparameters.items() if value is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    for key in given.keys() - known:
        raise UsageError(f"loss {name!r} takes no {key!r}, but: {', '.join(sorted(known))}")
    return kind(**given)
