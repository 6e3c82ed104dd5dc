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


def tisode_state(name, filters=4, classes=3, seed=0):
    """The state dict of `tisode`, `tisode_odenet` or `tisode_cnn`."""
    stem, head = ("downsampling_layers.", "fc_layers.2.") if name == "tisode" else ("net.", "net.9.")
    body = {"tisode": "feature_layers.", "tisode_odenet": "net.6.odefunc.", "tisode_cnn": "net.6."}[name]
    shapes = {f"{stem}0.weight": (filters, 1, 3, 3), f"{stem}3.weight": (filters, filters, 4, 4)}
    shapes |= {f"{stem}{i}.bias": (filters,) for i in (0, 3)}
    shapes |= {f"{norm}.{w}": (filters,) for norm in (f"{stem}1", f"{stem}4") for w in ("weight", "bias")}
    for i in (1, 2):
        timed = name == "tisode_odenet"
        conv = f"{body}conv{i}._layer" if timed else f"{body}conv{i}"
        shapes[f"{conv}.weight"] = (filters, filters + timed, 3, 3)
        shapes |= {f"{conv}.bias": (filters,)} if timed else {}
        shapes |= {f"{body}norm{i}.{w}": (filters,) for w in ("weight", "bias")}
    shapes |= {f"{head}weight": (classes, filters), f"{head}bias": (classes,)}
    random = np.random.default_rng(seed)
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def gains_state(filters=4, classes=3, seed=0, first_step=0.3):
    """The state dict of a `gains`."""
    shapes = {"net.1.weight": (filters, 1, 5, 5), "net.3.weight": (filters, filters, 5, 5)}
    shapes |= {f"net.{i}.bias": (filters,) for i in (1, 3)}
    for i in (1, 2):
        shapes[f"net.5.odefunc.conv{i}._layer.weight"] = (filters, filters + 1, 3, 3)
        shapes[f"net.5.odefunc.conv{i}._layer.bias"] = (filters,)
    shapes |= {"net.8.weight": (classes, filters), "net.8.bias": (classes,)}
    random = np.random.default_rng(seed)
    state = {key: random.normal(size=shape).astype(np.float32) / 4 for key, shape in shapes.items()}
    return state | {"net.5.running_mean_step": np.float32([first_step])}
