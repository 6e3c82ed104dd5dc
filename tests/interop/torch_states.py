"""State dicts as PyTorch's programs name and lay them out."""

import numpy as np


def torch_state(filters=4, classes=3, seed=0):
    """The state dict of an OON."""
    random = np.random.default_rng(seed)
    shapes = {"downsample.module.weight": (filters, 1, 4, 4), "downsample.module.bias": (filters,)}
    for i in (1, 2, 3):
        shapes |= {f"odeblock.odefunc.norm{i}.{w}": (filters,) for w in ("weight", "bias")}
    for i in (1, 2):
        shapes[f"odeblock.odefunc.conv{i}._layer.weight"] = (filters, filters + 1, 3, 3)
        shapes[f"odeblock.odefunc.conv{i}._layer.bias"] = (filters,)
    shapes |= {f"classifier.module.0.{w}": (filters,) for w in ("weight", "bias")}
    shapes |= {"classifier.module.5.weight": (classes, filters), "classifier.module.5.bias": (classes,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
