"""The derivative of a convolution by its maps: TensorFlow's kernels for it beside a convolution with the turned kernel.

    python -m benchmarks.convolution

Milliseconds an image of a 3 x 3 convolution, of its derivative as TensorFlow takes it, and as `tfode_adv.layers` does.
Interleaved rounds of eight in a row; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import tensorflow as tf

from tfode_adv.layers.convolution import conv2d

# Height and channels: OON on MNIST and on CIFAR-10, the ResNets' first stage.
SHAPES = ((14, 64), (8, 64), (32, 32))
IN_A_ROW = 8


def derivative(convolved: Callable) -> Callable:
    """The derivative by the maps, times the maps themselves."""

    def differentiated(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            y = convolved(x, kernel)
        return tape.gradient(y, x, x)

    return differentiated


def stock(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def ours(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return conv2d(x, kernel, 1, padding=1)


COLUMNS = {"convolution": stock, "derivative, TensorFlow's": derivative(stock), "derivative, ours": derivative(ours)}


def repeated(function: Callable, kernel: tf.Variable, dtype: str) -> Callable:
    @tf.function
    def run(x: tf.Tensor) -> tf.Tensor:
        for _ in range(IN_A_ROW):
            x = function(x, tf.cast(kernel, dtype))
        return x

    return run


def measure(size: int, channels: int, batch: int, dtype: str, rounds: int) -> list[float]:
    """Milliseconds an image, by column."""
    kernel = tf.Variable(tf.random.stateless_normal([3, 3, channels, channels], [0, 1]) * 0.05)
    x = tf.cast(tf.random.stateless_normal([batch, size, size, channels], [0, 2]), dtype)
    functions = [repeated(function, kernel, dtype) for function in COLUMNS.values()]
    taken = [[] for _ in functions]
    for turn in range(rounds + 2):
        for function, seconds in zip(functions, taken, strict=True):
            began = time.perf_counter()
            function(x).numpy()
            if turn > 1:
                seconds.append(time.perf_counter() - began)
    return [1e3 * statistics.median(seconds) / IN_A_ROW / batch for seconds in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32"])
    options = parser.parse_args()
    print(f"| maps | type | images at once | {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * (len(COLUMNS) + 1)}")
    for size, channels in SHAPES:
        for dtype in options.dtype:
            for batch in options.batch:
                cells = [f"{one:.3f}" for one in measure(size, channels, batch, dtype, options.rounds)]
                print(f"| {size} x {size} x {channels} | {dtype} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
