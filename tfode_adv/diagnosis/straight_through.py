"""The same model with a straight way through the layers whose gradient is missing or false.

Backward-pass differentiable approximation (Athalye et al., ICML 2018, section 4.1): a layer that hides its gradient is
replaced, in the backward pass only, by the identity or, where shapes differ, by a linear map fitted to what it does.
Which layers those are is asked of each: does its gradient foretell how its output changes, at any scale?
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.diagnosis.probe import calls_of
from tfode_adv.keras_internals import sublayers
from tfode_adv.models.oracle import as_function

# Of the spread of a layer's input: how far it is moved to see how its output changes.
SCALES = (0.003, 0.03, 0.1, 0.3, 1.0)
# A layer whose gradient agrees less than this with differences at every scale is no guide.
LEAST_COSINE = 0.5
DIRECTIONS = 12
# Runs of a layer that answers differently each time, whose mean is looked at.
RUNS = 16


def detour(model: keras.layers.Layer, x: np.ndarray, seed: int = 0) -> tuple[list[str], Callable | None]:
    """Finds the layers that hide their gradient, and a way past them.

    Args:
        model: from images to logits.
        x: a few images [N, H, W, C] in [0, 1].
        seed: where the random directions start.

    Returns:
        The layers' names, and a function from images to logits that differentiates past them: the model's own, except
        where such a layer is the last. None, and no names, where there are no such layers or no way past.
    """
    inner = [layer for layer in sublayers(model) if not isinstance(layer, keras.layers.InputLayer)]
    with calls_of(inner) as calls:
        answer = model(tf.constant(x), training=False)
    rng = np.random.default_rng(seed)
    past: dict[keras.layers.Layer, tuple[Callable, bool]] = {}
    for layer, call in zip(inner, calls, strict=True):
        arguments = None if call is None else _plain(call)
        if arguments is not None and _hides(layer, *arguments, rng):
            way = _way(*arguments)
            if way is not None:
                # What makes the answer itself, a decision say, is left out: nothing else tells by how much it stands.
                past[layer] = way, _same(arguments[1], answer)
    # Of a layer and those inside it, the inner ones alone are passed by.
    chosen = {layer: way for layer, way in past.items() if not any(one in past for one in sublayers(layer))}
    if not chosen:
        return [], None

    def differentiable(images: tf.Tensor) -> tf.Tensor:
        with _passing(chosen):
            return as_function(model)(images)

    return [layer.name for layer in chosen], differentiable


def _plain(call: tuple) -> tuple[list[tf.Tensor], tf.Tensor, Callable] | None:
    """What a layer was called with and gave: float tensors, and how to put the arguments together again."""
    inputs, output = call
    tensors = tf.nest.flatten(inputs)
    every = [*tensors, output]
    if not all(
        tf.is_tensor(one) and hasattr(one, "numpy") and one.dtype.is_floating and one.shape.rank for one in every
    ):
        return None
    return tensors, output, lambda parts: tf.nest.pack_sequence_as(inputs, parts)


def _hides(layer, inputs, output, pack, rng) -> bool:
    """Does the layer's gradient foretell nothing of how its output changes, though it changes?"""
    weights = tf.constant(rng.standard_normal(output.shape), output.dtype)

    def score(parts, runs=1):
        results = [layer(pack(parts)) for _ in range(runs)]
        mean = tf.add_n(results) / runs
        return tf.reduce_sum(tf.reshape(weights * mean, [len(mean), -1]), -1)

    try:
        first, second = score(inputs), score(inputs)
    # A layer may want more than its first argument; it is then none that can be asked.
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return False
    noise = 0.0
    if not np.allclose(first, second, rtol=1e-4, atol=1e-6):
        score = functools.partial(score, runs=RUNS)
        noise = float(np.median(np.abs(score(inputs) - score(inputs))))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = score(inputs)
    gradients = tape.gradient(total, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    foretold = []
    measured: dict[float, list] = {scale: [] for scale in SCALES}
    spread = [float(tf.math.reduce_std(one)) + 1e-6 for one in inputs]
    for _ in range(DIRECTIONS):
        moves = [
            size * rng.choice([-1.0, 1.0], one.shape).astype(np.float32)
            for one, size in zip(inputs, spread, strict=True)
        ]
        foretold.append(sum(_dot(g, move) for g, move in zip(gradients, moves, strict=True)))
        for scale in SCALES:
            there, back = (
                score([one + sign * scale * move for one, move in zip(inputs, moves, strict=True)]) for sign in (1, -1)
            )
            measured[scale].append((there - back).numpy() / (2 * scale))
    expected = np.stack(foretold)
    agreement = [
        _agreement(expected, np.stack(changes), max(1e-5, 4 * noise / (2 * scale)))
        for scale, changes in measured.items()
    ]
    known = [one for one in agreement if one is not None]
    return bool(known) and max(known) < LEAST_COSINE


def _dot(a, b) -> np.ndarray:
    return tf.reduce_sum(tf.reshape(a * b, [len(b), -1]), -1).numpy().astype(np.float64)


def _agreement(expected: np.ndarray, measured: np.ndarray, least: float) -> float | None:
    """Median cosine over the samples of arrays [directions, samples]; None where few change by more than `least`."""
    usable = np.isfinite(measured).all(axis=0) & (np.abs(measured).max(axis=0) > least)
    if usable.mean() < 0.25:
        return None
    e, m = np.nan_to_num(expected[:, usable]), measured[:, usable]
    size = np.linalg.norm(e, axis=0) * np.linalg.norm(m, axis=0)
    return float(np.median(np.divide((e * m).sum(axis=0), size, out=np.zeros(len(size)), where=size > 0)))


def _way(inputs, output, pack) -> Callable | None:
    """A differentiable stand-in for a layer: from its arguments to a tensor like its output."""
    for index, one in enumerate(inputs):
        if one.shape == output.shape:
            slope = 1.0 if _correlation(one, output) >= 0 else -1.0
            return lambda arguments, index=index, slope=slope: slope * tf.nest.flatten(arguments)[index]
    one = inputs[0]
    if len(inputs) == 1 and one.shape.rank == output.shape.rank and one.shape[:-1] == output.shape[:-1]:
        points, results = (np.reshape(value, [-1, value.shape[-1]]).astype(np.float64) for value in (one, output))
        points, results = points - points.mean(axis=0), results - results.mean(axis=0)
        gram = points.T @ points
        fitted = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), points.T @ results)
        matrix = tf.constant(fitted, output.dtype)
        return lambda arguments: tf.tensordot(tf.nest.flatten(arguments)[0], matrix, 1)
    return None


def _same(output: tf.Tensor, answer: tf.Tensor) -> bool:
    return output.shape == answer.shape and bool(np.array_equal(output, answer))


def _correlation(a: tf.Tensor, b: tf.Tensor) -> float:
    a, b = (np.ravel(one).astype(np.float64) for one in (a, b))
    return float(((a - a.mean()) * (b - b.mean())).sum())


@contextlib.contextmanager
def _passing(ways: dict[keras.layers.Layer, tuple[Callable, bool]]) -> Iterator[None]:
    """Runs layers with the value of their own and the derivative of a stand-in, while it is open."""

    def passing(call: Callable, way: Callable, last: bool) -> Callable:
        def called(inputs, *arguments, **options):
            if last:
                return way(inputs)
            value, straight = call(tf.nest.map_structure(tf.stop_gradient, inputs), *arguments, **options), way(inputs)
            return tf.stop_gradient(value) + straight - tf.stop_gradient(straight)

        return called

    for layer, (way, last) in ways.items():
        # Past Keras's own __setattr__, which would track the function as the layer's state.
        layer.__dict__["call"] = passing(layer.call, way, last)
    try:
        yield
    finally:
        for layer in ways:
            del layer.__dict__["call"]
