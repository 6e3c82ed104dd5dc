"""Foolbox 1.8's basic iterative method in PyTorch: the published attack, in single steps."""

import torch
from torch_gradient import Model, differentiate


def ascend(
    model: Model, x: torch.Tensor, x_adv: torch.Tensor, y: torch.Tensor, *, norm: str, eps: float, step_size: float
) -> torch.Tensor:
    """The next iterate of `x_adv` in the ball of `eps` around the images `x`, `[B, C, H, W]`; norm: linf or l2rms."""
    _, gradient = differentiate(model, x_adv, y)
    if norm == "linf":
        delta = (x_adv + step_size * gradient.sign() - x).clamp(-eps, eps)
    else:
        delta = x_adv + step_size * gradient / _rms(gradient) - x
        delta = delta * (eps / _rms(delta)).clamp(max=1)
    return (x + delta).clamp(0, 1).detach()


@torch.no_grad()
def wrong(model: Model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Whether each image is misclassified, `[B]`."""
    return model(x).argmax(-1) != y


def to_first_success(model: Model, x: torch.Tensor, y: torch.Tensor, steps: int, **ball) -> tuple[torch.Tensor, bool]:
    """Attacks one image, `[1, C, H, W]`; returns where it ends and whether that is a success."""
    x_adv, step = x, 0
    while not (fooled := wrong(model, x_adv, y).item()) and step < steps:
        x_adv, step = ascend(model, x, x_adv, y, **ball), step + 1
    return x_adv, fooled


def _rms(values):
    return values.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
