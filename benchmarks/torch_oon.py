"""OON in PyTorch over torchdiffeq, with the weights of one of ours: the peer that benchmarks run beside."""

from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
import torchdiffeq

from tfode_adv.interop.names import model_names


class TorchOON(torch.nn.Module):
    """The classifier of WIFS 2019 on NCHW images.

    Args:
        model: an OON of `tfode_adv.models`, whose weights are copied.
        tol: rtol and atol of `dopri5`.
        adjoint: differentiate by torchdiffeq's adjoint, as published, or by backpropagation.
        library: the torchdiffeq that solves; default: the one that is installed.
    """

    def __init__(self, model, tol: float, adjoint: bool, library: ModuleType = torchdiffeq):
        super().__init__()
        self.tol, self.solve = tol, library.odeint_adjoint if adjoint else library.odeint
        weights = {name: as_torch(variable.numpy()) for name, variable in model_names(model).items()}
        self.dynamics = _Dynamics(weights)
        self.stem = weights["stem.weight"], weights["stem.bias"]
        self.norm = weights["head_norm.weight"], weights["head_norm.bias"]
        self.logits = weights["logits.weight"], weights["logits.bias"]

    def forward(self, x):
        h = F.conv2d(x, *self.stem, stride=2, padding=1)
        h = self.solve(self.dynamics, h, torch.tensor([0.0, 1.0]), rtol=self.tol, atol=self.tol, method="dopri5")[-1]
        h = F.relu(_group_norm(h, *self.norm)).mean((2, 3))
        return F.linear(h, *self.logits)


class _Dynamics(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        for name, value in weights.items():
            if name.startswith("ode."):
                # The adjoint method integrates the weights' gradients too, as the published program's did.
                self.register_parameter(name.removeprefix("ode.").replace(".", "_"), torch.nn.Parameter(value))

    def forward(self, t, h):
        h = F.relu(_group_norm(h, self.norm1_weight, self.norm1_bias))
        h = F.relu(_group_norm(self._conv(t, h, "conv1"), self.norm2_weight, self.norm2_bias))
        return _group_norm(self._conv(t, h, "conv2"), self.norm3_weight, self.norm3_bias)

    def _conv(self, t, h, name):
        h = torch.cat([torch.ones_like(h[:, :1]) * t, h], 1)
        return F.conv2d(h, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), padding=1)


def _group_norm(h, weight, bias):
    return F.group_norm(h, min(32, h.shape[1]), weight, bias)


def as_torch(value: np.ndarray) -> torch.Tensor:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
    return torch.tensor(value.transpose(axes).copy())
