"""OON-MNIST in diffrax: each sample with its own steps by `vmap`, all of it compiled; the peer closest to ours."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import workers


class JaxWorker:
    """diffrax's Dormand-Prince, differentiated through the steps with its own checkpoints, its default."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = {name: jnp.asarray(value) for name, value in weights.items()}
        kinds = {"forward": self._forward, "gradient": self._differentiated(1), "training": self._differentiated(0)}
        self.compiled = {name: jax.jit(function) for name, function in kinds.items()}

    def run(self, task: str, tol: float, batch: int) -> float:
        """One run of a task on `batch` images; its evaluations of the dynamics forward, the samples' mean."""
        if task == "evaluation":
            h = jnp.full((workers.width(self.weights), 14, 14), 0.1)
            jax.block_until_ready(jax.vmap(lambda _: self._dynamics(0.0, h, self.weights))(jnp.arange(batch)))
            return 1
        x = jnp.asarray(workers.images(batch).transpose(0, 3, 1, 2))
        steps, _ = jax.block_until_ready(self.compiled[task](self.weights, x, tol))
        # Six a step, the seventh stage is the next one's first; and two for the first step's size.
        return float(jnp.mean(6 * steps + 2))

    def _forward(self, weights, x, tol):
        logits, steps = jax.vmap(lambda image: self._logits(weights, image, tol))(x)
        return steps, logits

    def _differentiated(self, argument: int):
        def loss(weights, x, tol):
            steps, logits = self._forward(weights, x, tol)
            return logits[:, 0].sum(), steps

        def differentiated(weights, x, tol):
            gradient, steps = jax.grad(loss, argument, has_aux=True)(weights, x, tol)
            return steps, gradient

        return differentiated

    def _logits(self, weights, image, tol):
        h = _convolution(image, weights["downsample.module.weight"], weights["downsample.module.bias"], 2)
        solved = diffrax.diffeqsolve(
            diffrax.ODETerm(self._dynamics),
            diffrax.Dopri5(),
            0.0,
            1.0,
            None,
            h,
            weights,
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            max_steps=256,
        )
        h = jax.nn.relu(_norm(solved.ys[0], weights, "classifier.module.0")).mean((1, 2))
        logits = weights["classifier.module.5.weight"] @ h + weights["classifier.module.5.bias"]
        return logits, solved.stats["num_steps"]

    def _dynamics(self, t, h, weights):
        for i in (1, 2):
            h = jax.nn.relu(_norm(h, weights, f"odeblock.odefunc.norm{i}"))
            name = f"odeblock.odefunc.conv{i}._layer"
            timed = jnp.concatenate([jnp.full((1, *h.shape[1:]), t, h.dtype), h])
            h = _convolution(timed, weights[f"{name}.weight"], weights[f"{name}.bias"], 1)
        return _norm(h, weights, "odeblock.odefunc.norm3")


def _convolution(image, kernel, bias, stride):
    padded = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(image[None], kernel, (stride, stride), padded)[0] + bias[:, None, None]


def _norm(h, weights, name):
    grouped = h.reshape(min(32, len(h)), -1)
    grouped = (grouped - grouped.mean(1, keepdims=True)) * jax.lax.rsqrt(grouped.var(1, keepdims=True) + 1e-5)
    return grouped.reshape(h.shape) * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]
