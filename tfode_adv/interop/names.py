"""From the names of the papers' PyTorch programs to the names of the layers here: rules, applied in order."""

import re

# Each rule rewrites a name; the layer's name comes out first, the weight's last.
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # WIFS 2019
        (r"\._layer\.", "."),
        (r"^downsample\.module\.(weight|bias)$", r"stem.\1"),
        (r"^downsample\.module\.0\.", "stem."),
        (r"^downsample\.module\.([12])\.", r"downsample_\1."),
        (r"^features\.(\d+)\.", r"block_\1."),
        (r"^odeblock\.odefunc\.", "ode."),
        (r"^classifier\.module\.0\.", "head_norm."),
        (r"^classifier\.module\.5\.", "logits."),
        # MSML 2021
        (r"^conv1\.(odefunc\.)?", "stem."),
        (r"^layer(\d+)\.(\d+)\.(odefunc\.)?", r"stage\1_block\2."),
        (r"\.shortcut\.0\.", ".shortcut."),
        (r"\.shortcut\.1\.", ".shortcut_bn."),
        (r"^conv\.(\d+)\.ode_conv\.odefunc\.", r"ode_\1."),
        (r"^norm\.", "head_norm."),
        (r"^linear\.(odefunc\.)?", "logits."),
        (r"\.kernel$", ".weight"),
    )
)

# Keras's word for a weight -> PyTorch's.
WEIGHTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def translate(name: str) -> str:
    """The layer and weight that PyTorch's `name` stands for, such as `stage1_block0.conv1.weight`."""
    for pattern, replacement in RULES:
        name = pattern.sub(replacement, name)
    return name


def model_names(model) -> dict:
    """The weights of a model of `tfode_adv.models`, by the names that `translate` gives: name to variable."""
    return {name: variable for layer in model.layers for name, variable in _weights(layer, layer.name)}


def _weights(layer, prefix):
    sublayers = list(layer._flatten_layers(recursive=False, include_self=False))
    inner = {id(variable) for sublayer in sublayers for variable in sublayer.weights}
    for variable in layer.weights:
        if id(variable) not in inner and variable.name in WEIGHTS:
            yield f"{prefix}.{WEIGHTS[variable.name]}", variable
    for sublayer in sublayers:
        # An ODE block stands for its dynamics: the block's own name is the layer's.
        yield from _weights(sublayer, prefix if is_dynamics(layer, sublayer) else f"{prefix}.{sublayer.name}")


def is_dynamics(layer, sublayer) -> bool:
    return getattr(layer, "dynamics", None) is sublayer
