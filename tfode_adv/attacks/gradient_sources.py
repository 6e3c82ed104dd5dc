"""Where an attack's gradients come from, apart from what the attack does with them.

An adaptive solver can mask gradients; these sources see round it. Every gradient attack takes one.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv import layers
from tfode_adv.attacks import checks, losses, norms, random_streams
from tfode_adv.attacks.ascent import value_and_gradient
from tfode_adv.errors import LARGEST_FLOAT, SMALLEST_FLOAT, UsageError, check_choice, check_integer, check_range
from tfode_adv.keras_internals import sublayers
from tfode_adv.models.oracle import Model, as_function
from tfode_adv.models.random_solver import RandomSolver
from tfode_adv.solvers import block_options

Loss = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Source:
    """The model's own gradient."""

    @property
    def draws(self) -> int:
        """How many runs one gradient is the mean of."""
        return 1

    @property
    def queries(self) -> int:
        """How many times the attacked model is asked for one gradient."""
        return 1

    @property
    def models(self) -> tuple[Any, ...]:
        """The models, besides the attacked one, that a gradient goes through."""
        return ()

    @property
    def at_once(self) -> int:
        """How many images go through a model at once for the gradient of one."""
        return 1

    def within(self, size: int) -> "Source":
        """Returns the source that does the same with at most `size` images of one sample at once."""
        return self

    def accept(self, model: Any) -> None:
        """Raises `UsageError` if this source could not do what it says for `model`, as the user gave it."""

    def logits(self, model: Model, x: tf.Tensor) -> tf.Tensor:
        """Returns logits with the value of `model(x)` and the derivative to be used for it."""
        return model(x)

    def differentiate(self, model: Model, loss: Loss, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the loss [B], the model's own logits [B, K] and the gradient [B, ...] of the loss at `x`.

        `loss` maps logits [B, K] to [B], samples taken apart.
        """

        def value(x):
            logits = self.logits(model, x)
            return (loss(logits), logits)

        def missing():
            _no_gradient(lambda x: self.logits(model, x), x)

        (value, logits), gradient = value_and_gradient(value, x, aux=True, missing=missing)
        return value, logits, gradient


# The gradient first, as it is what is mostly given.
_Surrogate = dataclasses.make_dataclass(
    "_Surrogate",
    [(each.name, Any, None) for each in sorted(block_options.options(), key=lambda each: each.name != "gradient")],
    frozen=True,
)


@dataclasses.dataclass(frozen=True)
class Through(_Surrogate, Source):
    """The model's own forward pass with the derivative of a surrogate.

    Backward-pass differentiable approximation (Athalye et al. 2018). The surrogate is the same model with
    its ODE blocks solved otherwise: another gradient method, a finer tolerance, a fixed-step solver. What
    is None stays the model's.

    A gradient takes two forward passes: the model's, which is a query, and the surrogate's, which counts
    as part of the gradient. Where nothing but `precision` and `gradient` differ, the surrogate's pass is the model's
    but for rounding, and serves for both: a step reads its rounded logits, and who is turned by them is turned if the
    model, asked anew, says so too.

    Args:
      gradient, tol, solver, num_steps and the others of `tfode_adv.layers.ODEBlock`'s settings: as there. A
        `RandomSolver` draws its own `tol`: give the model inside it as `twin`.
      twin: another model altogether to differentiate, such as the model less what masks its gradient.

    Raises:
      UsageError: an unknown name or a value out of range.
    """

    twin: Any = dataclasses.field(default=None, hash=False)  # as it may have none

    def __post_init__(self):
        for name, value in self.settings.items():
            called = name if name.startswith("gradient") else f"gradient_{name}"
            option = dataclasses.replace(block_options.named(name), name=called)
            value = option.check(value)
            if option.kind is float:
                # The surrogate's numbers are float32.
                check_range(called, value, low=SMALLEST_FLOAT, high=LARGEST_FLOAT)
            object.__setattr__(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in which the surrogate is solved otherwise."""
        return {name: getattr(self, name) for name in block_options.names() if getattr(self, name) is not None}

    @property
    def models(self) -> tuple[Any, ...]:
        return () if self.twin is None else (self.twin,)

    def accept(self, model: Any) -> None:
        if self.tol is not None and _draws_tolerances(model if self.twin is None else self.twin):
            raise UsageError(
                f"gradient_tol is {self.tol!r}, but RandomSolver draws its own tolerance at each call: "
                "give Through the model inside it as twin="
            )

    def logits(self, model: Model, x: tf.Tensor) -> tf.Tensor:
        differentiable = model if self.twin is None else as_function(self.twin)
        with layers.solver_settings(**self.settings):
            surrogate = differentiable(x)
        if self.precision is not None and self.twin is None and self.settings.keys() <= {"precision", "gradient"}:
            return surrogate
        # Adding an exact zero keeps the model's own value to the last bit.
        zero = surrogate - tf.stop_gradient(surrogate)
        zero = tf.where(tf.math.is_finite(zero), zero, tf.zeros_like(zero))
        return model(tf.stop_gradient(x)) + zero


@dataclasses.dataclass(frozen=True)
class EOT(Source):
    """The mean gradient of the loss over `n` runs of a randomised model (Athalye et al. 2018).

    Each run is a call of its own, so that a model that draws once for a whole batch draws `n` times too. Success on
    the way is judged by the mean of the `n` runs' logits.

    Args:
      n: runs a gradient, at least 1.
      source: how each run is differentiated; default: the model's own gradient.

    Raises:
      UsageError: n is no whole number or below 1, or the source is none.
    """

    n: int = 10
    source: Source = Source()

    def __post_init__(self):
        object.__setattr__(self, "n", check_integer("eot", self.n, low=1, high=checks.LARGEST[int]))
        _check_source("EOT", self.source)

    @property
    def draws(self) -> int:
        return self.n * self.source.draws

    @property
    def queries(self) -> int:
        return self.n * self.source.queries

    @property
    def models(self) -> tuple[Any, ...]:
        return self.source.models

    @property
    def at_once(self) -> int:
        return self.source.at_once

    def within(self, size: int) -> Source:
        return EOT(self.n, self.source.within(size))

    def accept(self, model: Any) -> None:
        self.source.accept(model)

    def differentiate(self, model: Model, loss: Loss, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Copies in one call would all meet the same draw of a model that draws once a call, as random resizing does.
        found = one_by_one(lambda _: self.source.differentiate(model, loss, x), tf.range(self.n), 3)
        return tuple(tf.reduce_mean(part, 0) for part in found)


@dataclasses.dataclass(frozen=True)
class Smoothed(Source):
    """The mean gradient of the loss over noisy copies of the image: what an attack sees past a rippled surface.

    A gradient may be exact and useless, as it turns within a fraction of the attack's radius ("shattered", Athalye
    et al. 2018); its mean over a neighbourhood is that of the loss smoothed. Loss and answer are those of the image
    itself. The noise is drawn once, in pairs of opposite signs, so that a gradient can be had again.

    Args:
      radius: length of the largest noise, in `norm`: it is uniform in a ball.
      norm: linf, l2 or l2rms.
      n: noisy copies, an even number.
      seed: where the noise's random numbers start.

    Raises:
      UsageError: a value out of range, an odd `n` or an unknown norm.
    """

    radius: float
    norm: str = "linf"
    n: int = 16
    seed: int = 0

    def __post_init__(self):
        check_range("radius", self.radius, low=0, low_open=True)
        check_choice("norm", self.norm, norms.NORMS)
        object.__setattr__(self, "n", check_integer("n", self.n, low=2))
        if self.n % 2:
            raise UsageError(f"n is {self.n}, but must be even: each noise has its mirror image")

    @property
    def draws(self) -> int:
        return self.n

    @property
    def queries(self) -> int:
        return self.n + 1

    @property
    def at_once(self) -> int:
        return self.n

    def within(self, size: int) -> Source:
        return _SmoothedInParts(self.radius, self.norm, self.n, self.seed, part_size(self.n, size))

    def differentiate(self, model: Model, loss: Loss, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = model(x)
        return loss(logits), logits, self._gradient(model, loss, x, self._noise(x))

    def _noise(self, x: tf.Tensor) -> tf.Tensor:
        """[n, B, ...]."""
        shape, kind = x.shape[1:], norms.geometry(self.norm)
        keys = random_streams.fold(self.seed, tf.range(self.n // 2, dtype=tf.int64))
        like = tf.zeros([self.n // 2, *shape])
        half = norms.random_delta(keys, like, kind, self.radius * norms.unit(self.norm, shape))
        return tf.concat([half, -half], 0)

    def _gradient(self, model: Model, loss: Loss, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """The share of the noise `[m, ...]` in the mean gradient."""
        # Brought into [0, 1], where a model is defined; the edge must not cut the gradient off.
        moves = [tf.stop_gradient(tf.clip_by_value(x + one, 0.0, 1.0) - x) for one in tf.unstack(noise)]

        def noisy(x):
            logits = model(tf.concat([x + move for move in moves], 0))
            return tf.add_n([loss(run) for run in tf.split(logits, len(moves))]) / self.n

        return value_and_gradient(noisy, x)[1]


@dataclasses.dataclass(frozen=True)
class _SmoothedInParts(Smoothed):
    """The same with `together` noisy copies at once."""

    together: int = 1

    @property
    def at_once(self) -> int:
        return self.together

    def _gradient(self, model: Model, loss: Loss, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        whole = self.n // self.together * self.together
        parts = tf.reshape(noise[:whole], [-1, self.together, *noise.shape[1:]])
        share = super()._gradient
        found = one_by_one(lambda part: share(model, loss, x, part), parts, 1)
        gradient = tf.reduce_sum(found, 0)
        return gradient + share(model, loss, x, noise[whole:]) if whole < self.n else gradient


@dataclasses.dataclass(frozen=True)
class Transfer(Source):
    """The gradient and the loss of another model; the attacked one only judges.

    It is asked once for each gradient, however many runs of `source_model` that takes.

    Args:
      source_model: any callable from the same images to as many logits.
      source: how `source_model` is differentiated; default: its own gradient.

    Raises:
      UsageError: the source is none.
    """

    source_model: Any = dataclasses.field(hash=False)  # as it may have none
    source: Source = Source()

    def __post_init__(self):
        _check_source("Transfer", self.source)

    @property
    def draws(self) -> int:
        return self.source.draws

    @property
    def models(self) -> tuple[Any, ...]:
        return (self.source_model, *self.source.models)

    @property
    def at_once(self) -> int:
        return self.source.at_once

    def within(self, size: int) -> Source:
        return Transfer(self.source_model, self.source.within(size))

    def accept(self, model: Any) -> None:
        self.source.accept(self.source_model)

    def differentiate(self, model: Model, loss: Loss, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = model(x)

        def scaled(others):
            """Gives the other model's logits the scale of this one's, which the loss counts on."""
            if others.shape[-1] != logits.shape[-1]:
                raise UsageError(
                    f"Transfer's model tells {others.shape[-1]} classes apart, but the attacked one {logits.shape[-1]}"
                )
            others = tf.reshape(others, [-1, tf.shape(logits)[0], logits.shape[-1]])
            return loss(tf.reshape(losses.matched(others, logits), [-1, logits.shape[-1]]))

        value, _, gradient = self.source.differentiate(as_function(self.source_model), scaled, x)
        return value, logits, gradient


_STAIRS = {"Round", "Rint", "Floor", "Ceil", "FloorDiv", "Sign"}
"""Operations that have a derivative: zero, wherever it exists. So have those whose result is no float."""


def _no_gradient(function: Model, x: tf.Tensor) -> None:
    """Says that no gradient comes through `function`: as an error if it is stopped, as a warning if it is zero.

    It is zero by nature where every way from the image to the logits leads over a step: a rounding or a comparison.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    inner = [node for each in traced.graph.as_graph_def().library.function for node in each.node_def]
    words = "give the attack source=Through(twin=...) or Transfer(...), or take one that needs none, such as square"
    if _depends(traced.outputs[0].op, traced.inputs[0].op, any(node.op in _STAIRS for node in inner)):
        raise UsageError(f"no gradient comes through the model, it is stopped on the way: {words}")
    warnings.warn(f"the model's gradient is zero everywhere: {words}", checks.AttackWarning, stacklevel=2)


def _depends(result: tf.Operation, source: tf.Operation, stairs_inside: bool) -> bool:
    """Does the value of `result` depend on that of `source`, not on its shape alone, by a way without a step?

    Args:
        stairs_inside: whether the functions that are called on the way may hold steps.
    """
    seen, ahead = set(), [result]
    while ahead:
        operation = ahead.pop()
        if operation.name == source.name:
            return True
        if operation.name not in seen and not _is_step(operation, stairs_inside):
            ahead += [tensor.op for tensor in operation.inputs]
        seen.add(operation.name)
    return False


def _is_step(operation: tf.Operation, stairs_inside: bool) -> bool:
    if operation.type in _STAIRS or operation.type in ("Shape", "ZerosLike", "OnesLike"):
        return True
    calls = stairs_inside and any(value.HasField("func") for value in operation.node_def.attr.values())
    return calls or not any(x.dtype.is_floating or x.dtype.is_complex for x in operation.outputs)


def part_size(count: int, most: int) -> int:
    """Returns the size of the parts that `count` falls into, as few and as even as can be with `most` in each."""
    parts = -(-count // max(1, most))
    return -(-count // parts)


def in_parts(function: Callable, rows: tf.Tensor, count: int, most: int, results: int) -> list[tf.Tensor]:
    """Returns the `results` float tensors of `function` for `rows` `[count, ...]`, no more than `most` at once."""
    size = part_size(count, most)
    whole = count // size * size
    found = one_by_one(function, tf.reshape(rows[:whole], [-1, size, *rows.shape[1:]]), results)
    found = [tf.reshape(part, [-1, *part.shape[2:]]) for part in ([found] if results == 1 else found)]
    if whole == count:
        return found
    rest = function(rows[whole:])
    return [tf.concat(pair, 0) for pair in zip(found, [rest] if results == 1 else rest, strict=True)]


def one_by_one(function: Callable, parts: tf.Tensor, results: int) -> Any:
    """Returns the `results` float tensors of `function` for each of `parts`, stacked, computed one after the other."""
    kinds = (tf.float32,) * results
    return tf.map_fn(function, parts, parallel_iterations=1, fn_output_signature=kinds[0] if results == 1 else kinds)


def _check_source(outer: str, source: Any) -> None:
    if not isinstance(source, Source):
        raise UsageError(f"{outer}'s source is {source!r}, but must be a Through, EOT or Transfer")


def _draws_tolerances(model: Any) -> bool:
    """Does `model`, a layer, hold a `RandomSolver`? Of a plain callable nothing is known."""
    inner = sublayers(model, include_self=True) if hasattr(model, "stateless_call") else ()
    return any(isinstance(layer, RandomSolver) for layer in inner)
