"""The gradient that attacks follow, in PyTorch."""

from collections.abc import Callable

import torch

Model = Callable[[torch.Tensor], torch.Tensor]


def differentiate(model: Model, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[B, classes]` of images `[B, C, H, W]` and each image's gradient of its cross-entropy."""
    x = x.detach().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y, reduction="sum"), x)
    return logits.detach(), gradient
