"""OON-MNIST in each library, behind one interface: `Worker(weights).run(task, tol, batch) -> NFE`.

All hold the same weights, under the names of the papers' PyTorch program, and the same images.
Tasks: "evaluation", one evaluation of the dynamics; "convolutions", its two convolutions alone; "forward";
"gradient", forward and the input's gradient; "training", forward and the weights' gradient.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

FILTERS = 64


def random_weights(filters: int = FILTERS, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights drawn as PyTorch draws them, by the program's names."""
    random = np.random.default_rng(seed)

    def uniform(*shape: int) -> np.ndarray:
        bound = 1 / np.sqrt(np.prod(shape[1:]))
        return random.uniform(-bound, bound, shape).astype(np.float32)

    k = filters
    weights = {"downsample.module.weight": uniform(k, 1, 4, 4), "downsample.module.bias": np.zeros(k, np.float32)}
    for i in (1, 2):
        weights[f"odeblock.odefunc.conv{i}._layer.weight"] = uniform(k, k + 1, 3, 3)
        weights[f"odeblock.odefunc.conv{i}._layer.bias"] = np.zeros(k, np.float32)
    for name in ("odeblock.odefunc.norm1", "odeblock.odefunc.norm2", "odeblock.odefunc.norm3", "classifier.module.0"):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(k, np.float32), np.zeros(k, np.float32)
    weights["classifier.module.5.weight"] = uniform(10, k)
    weights["classifier.module.5.bias"] = np.zeros(10, np.float32)
    return weights


def width(weights: Mapping[str, Any]) -> int:
    """The channels of the network that has these weights."""
    return len(weights["downsample.module.bias"])


def images(batch: int) -> np.ndarray:
    """Smooth random images, NHWC in [0, 1]."""
    noise = np.random.default_rng(1).uniform(size=(batch, 7, 7, 1))
    return np.kron(noise, np.ones((1, 4, 4, 1))).astype(np.float32)


class TensorFlowWorker:
    """Ours, or stock TFP behind the same layers."""

    def __init__(self, weights: dict[str, np.ndarray], solver: str):
        import tensorflow as tf

        import tfode_adv as ta

        self.tf, self.ta, self.solver, self.filters = tf, ta, solver, width(weights)
        self.model = ta.models.build("oon", input_shape=(28, 28, 1), filters=self.filters, solver=solver, dropout=0.0)
        ta.interop.load_torch_state(self.model, weights)
        self.block = next(b for b in self.model.layers if isinstance(b, ta.layers.ODEBlock))
        self.compiled = {}

    def run(self, task: str, tol: float, batch: int) -> float:
        if (task, batch) not in self.compiled:
            self.compiled[task, batch] = self.tf.function(getattr(self, task), autograph=False)
        self.block.tol = tol
        x = self.tf.constant(images(batch))
        h = self.tf.zeros([batch, 14, 14, self.filters]) + 0.1
        return float(np.mean(self.compiled[task, batch](h if task in ("evaluation", "convolutions") else x)))

    def evaluation(self, h):
        return (
            self.tf.reduce_sum(self.block.dynamics(self.tf.zeros([self.tf.shape(h)[0], 1, 1, 1]), h)[0, 0, 0, 0]) * 0
            + 1
        )

    def convolutions(self, h):
        for conv in (self.block.dynamics.conv1, self.block.dynamics.conv2):
            h = self.tf.nn.conv2d(h, self.tf.convert_to_tensor(conv.kernel)[:, :, 1:], 1, "SAME")
        return self.tf.reduce_sum(h[0, 0, 0, 0]) * 0 + 1

    def forward(self, x):
        with self.ta.layers.record_statistics() as records:
            logits = self.model(x)
        with self.tf.control_dependencies([logits]):
            return self.tf.identity(records[0][1].nfe)

    def gradient(self, x):
        return self._differentiate(x, lambda: x)

    def training(self, x):
        return self._differentiate(x, lambda: self.model.trainable_variables)

    def _differentiate(self, x, sources):
        with self.tf.GradientTape() as tape, self.ta.layers.record_statistics() as records:
            tape.watch(x)
            loss = self.tf.reduce_sum(self.model(x)[:, 0])
        with self.tf.control_dependencies(self.tf.nest.flatten(tape.gradient(loss, sources()))):
            return self.tf.identity(records[0][1].nfe)


class TorchWorker:
    """torchdiffeq, by adjoint or backpropagation, or torchode, by backpropagation."""

    def __init__(self, weights: dict[str, np.ndarray], library: str, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.library = torch, library
        self.weights = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in weights.items()}
        self.evaluations = 0

    def _norm(self, h, name):
        w = self.weights
        return self.torch.nn.functional.group_norm(h, min(32, h.shape[1]), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def dynamics(self, t, h):
        functional, name = self.torch.nn.functional, "odeblock.odefunc"
        self.evaluations += 1
        for i in (1, 2):
            h = functional.relu(self._norm(h, f"{name}.norm{i}"))
            time = t.reshape(-1, 1, 1, 1).expand(h.shape[0], 1, *h.shape[2:])
            w, b = (self.weights[f"{name}.conv{i}._layer.{part}"] for part in ("weight", "bias"))
            h = functional.conv2d(self.torch.cat([time, h], 1), w, b, padding=1)
        return self._norm(h, f"{name}.norm3")

    def _solve(self, h, tol):
        times = self.torch.tensor([0.0, 1.0])
        if self.library == "torchode":
            import torchode

            shape = h.shape
            term = torchode.ODETerm(lambda t, y: self.dynamics(t, y.reshape(shape)).reshape(shape[0], -1))
            method = torchode.Dopri5(term=term)
            solver = torchode.AutoDiffAdjoint(method, torchode.IntegralController(atol=tol, rtol=tol, term=term))
            problem = torchode.InitialValueProblem(y0=h.reshape(shape[0], -1), t_eval=times.expand(shape[0], 2))
            return solver.solve(problem).ys[:, -1].reshape(shape)
        import torchdiffeq

        if self.library == "torchdiffeq adjoint":
            parameters = tuple(v for k, v in self.weights.items() if "odefunc" in k)
            return torchdiffeq.odeint_adjoint(
                self.dynamics, h, times, rtol=tol, atol=tol, method="dopri5", adjoint_params=parameters
            )[-1]
        return torchdiffeq.odeint(self.dynamics, h, times, rtol=tol, atol=tol, method="dopri5")[-1]

    def _logits(self, x, tol):
        functional, w = self.torch.nn.functional, self.weights
        h = functional.conv2d(x, w["downsample.module.weight"], w["downsample.module.bias"], stride=2, padding=1)
        h = functional.relu(self._norm(self._solve(h, tol), "classifier.module.0")).mean((2, 3))
        return functional.linear(h, w["classifier.module.5.weight"], w["classifier.module.5.bias"])

    def run(self, task: str, tol: float, batch: int) -> float:
        torch = self.torch
        x = torch.tensor(images(batch).transpose(0, 3, 1, 2), requires_grad=task == "gradient")
        self.evaluations = 0
        if task == "evaluation":
            with torch.no_grad():
                self.dynamics(torch.zeros(1), torch.full((batch, width(self.weights), 14, 14), 0.1))
        elif task == "forward":
            with torch.no_grad():
                self._logits(x, tol)
        else:
            loss = self._logits(x, tol)[:, 0].sum()
            forward = self.evaluations
            torch.autograd.grad(loss, [x] if task == "gradient" else list(self.weights.values()))
            return forward
        return self.evaluations


def make(name: str, threads: int, filters: int = FILTERS):
    """The worker called `name`: ours, tfp, torchdiffeq adjoint, torchdiffeq backprop, torchode or diffrax."""
    weights = random_weights(filters)
    if name == "diffrax":
        from benchmarks.jax_oon import JaxWorker

        return JaxWorker(weights)
    if name in ("ours", "tfp"):
        return TensorFlowWorker(weights, {"ours": "dopri5"}.get(name, name))
    return TorchWorker(weights, name, threads)
