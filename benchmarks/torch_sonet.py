"""SONet in PyTorch over torchdiffeq, from the weights of a file of reference vectors."""

from collections.abc import Mapping
from types import ModuleType

import torch
import torch.nn.functional as F


class TorchSONet:
    """The classifier of MSML 2021 on one NCHW image.

    Args:
        state: weights by the program's names.
        tol: rtol and atol of `dopri5`.
        library: the torchdiffeq that solves.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], tol: float, library: ModuleType):
        self.state, self.tol, self.library = state, tol, library
        blocks = {name.removesuffix(".odefunc.kernel") for name in state if name.endswith(".odefunc.kernel")}
        self.blocks = ["conv1", *sorted(blocks - {"conv1"})]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.blocks:
            x = self._block(x, name)
        features = x.mean((2, 3))
        weight, bias = self.state["linear.odefunc.weight"], self.state["linear.odefunc.bias"]
        size = features.shape[1]

        def dynamics(t, state):
            y, z = F.leaky_relu(state[:, :size]), F.leaky_relu(state[:, size:])
            return torch.cat([F.linear(z, weight), -F.linear(y, weight.t())], 1) + bias

        start = torch.full((1, weight.shape[1]), 0.1, dtype=x.dtype)
        return self._solve(dynamics, torch.cat([features, start], 1))[:, size:]

    def _block(self, z, name):
        kernel = self.state[f"{name}.odefunc.kernel"]
        # A kernel of 4 x 4 strides.
        stride = 2 if kernel.shape[-1] == 4 else 1
        y = z[:, :, ::stride, ::stride]
        y = y.repeat(1, -(-len(kernel) // y.shape[1]), 1, 1)[:, : len(kernel)]

        def norm(h, which):
            weight, bias = (self.state[f"{name}.odefunc.norm{which}.{part}"] for part in ("weight", "bias"))
            return F.group_norm(h, min(8, h.shape[1]), weight, bias)

        def dynamics(t, state):
            y, z = state
            towards_y = F.conv2d(norm(z, "1_2"), kernel, stride=stride, padding=1)
            towards_z = -F.conv_transpose2d(norm(y, "1_1"), kernel, stride=stride, padding=1)
            return norm(F.leaky_relu(towards_y), "2_1"), norm(F.leaky_relu(towards_z), "2_2")

        return self._solve(dynamics, (y, z))[0]

    def _solve(self, dynamics, state):
        times = torch.tensor([0.0, 1.0])
        ends = self.library.odeint(dynamics, state, times, rtol=self.tol, atol=self.tol, method="dopri5")
        return tuple(end[1] for end in ends) if isinstance(state, tuple) else ends[1]
