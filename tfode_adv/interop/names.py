"""From the names of the papers' PyTorch programs to the names of the layers here: rules, applied in order."""

import re

import keras

from tfode_adv.keras_internals import sublayers

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
        # TisODE (ICLR 2020): the CNN and ODENet are one sequence, TisODE three
        (r"^(?:net|downsampling_layers)\.0\.", "stem."),
        (r"^(?:net|downsampling_layers)\.1\.", "stem_norm."),
        (r"^(?:net|downsampling_layers)\.3\.", "downsample."),
        (r"^(?:net|downsampling_layers)\.4\.", "downsample_norm."),
        (r"^(?:net\.6\.odefunc|feature_layers)\.", "ode."),
        (r"^net\.6\.", "block."),
        (r"^(?:net\.9|fc_layers\.2)\.", "logits."),
        (r"\.kernel$", ".weight"),
    )
)

# GAINS (ICLR 2023) counts its layers from the normalisation on, so that the same numbers stand for others.
GAINS_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\._layer\.", "."),
        (r"^net\.1\.", "stem."),
        (r"^net\.3\.", "downsample."),
        (r"^net\.5\.odefunc\.", "ode."),
        (r"^net\.8\.", "logits."),
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


def translate(name: str, family: str | None = None) -> str:
    """The layer and weight that PyTorch's `name` stands for, such as `stage1_block0.conv1.weight`.

    Args:
        family: of the model, where its program's names are its own.
    """
    for pattern, replacement in GAINS_RULES if family == "gains" else RULES:
        name = pattern.sub(replacement, name)
    return name


# The way back, rules of which the first that fits is taken.
WIFS_NAMES = (
    (r"^stem\.", "downsample.module.0."),
    (r"^downsample_(\d+)\.", r"downsample.module.\1."),
    (r"^block_(\d+)\.", r"features.\1."),
    (r"^ode\.(conv\d)\.", r"odeblock.odefunc.\1._layer."),
    (r"^ode\.", "odeblock.odefunc."),
    (r"^head_norm\.", "classifier.module.0."),
    (r"^logits\.", "classifier.module.5."),
)
MSML_NAMES = (
    (r"^ode_(\d+)\.(conv\d)\.", r"conv.\1.ode_conv.odefunc.\2._layer."),
    (r"^ode_(\d+)\.", r"conv.\1.ode_conv.odefunc."),
    (r"^stage(\d+)_block(\d+)\.shortcut_bn\.", r"layer\1.\2.shortcut.1."),
    (r"^stage(\d+)_block(\d+)\.shortcut\.", r"layer\1.\2.shortcut.0."),
    (r"^stage(\d+)_block(\d+)\.", r"layer\1.\2."),
    (r"^stem\.", "conv1."),
    (r"^head_norm\.", "norm."),
    (r"^logits\.", "linear."),
)
TISODE_NAMES = (
    (r"^stem\.", "downsampling_layers.0."),
    (r"^stem_norm\.", "downsampling_layers.1."),
    (r"^downsample\.", "downsampling_layers.3."),
    (r"^downsample_norm\.", "downsampling_layers.4."),
    (r"^ode\.", "feature_layers."),
    (r"^logits\.", "fc_layers.2."),
)
TISODE_SEQUENCE = (
    (r"^stem\.", "net.0."),
    (r"^stem_norm\.", "net.1."),
    (r"^downsample\.", "net.3."),
    (r"^downsample_norm\.", "net.4."),
    (r"^ode\.(conv\d)\.", r"net.6.odefunc.\1._layer."),
    (r"^ode\.", "net.6.odefunc."),
    (r"^block\.", "net.6."),
    (r"^logits\.", "net.9."),
)
GAINS_NAMES = (
    (r"^stem\.", "net.1."),
    (r"^downsample\.", "net.3."),
    (r"^ode\.(conv\d)\.", r"net.5.odefunc.\1._layer."),
    (r"^logits\.", "net.8."),
)
# Those of a family that is not here are MSML_NAMES.
NAMES = {
    **dict.fromkeys(("res", "mix", "oon"), WIFS_NAMES),
    **dict.fromkeys(("tisode_cnn", "tisode_odenet"), TISODE_SEQUENCE),
    "tisode": TISODE_NAMES,
    "gains": GAINS_NAMES,
}
# The layers here that stand for skew-symmetric ODEs, whose weights are under `odefunc` there.
SKEW = {"sonet": ("stem.", "stage", "logits."), "soblock_resnet10": ("stem.",), "soblock_wide_resnet": ("stem.",)}


def torch_name(key: str, family: str) -> str:
    """What the program of a `family` of models calls the weight that `translate` calls `key`."""
    rules = NAMES.get(family, MSML_NAMES)
    pattern, replacement = next((rule for rule in rules if re.match(rule[0], key)), ("$", ""))
    name = re.sub(pattern, replacement, key)
    if family == "oon":
        return name.replace("downsample.module.0.", "downsample.module.")
    if key.startswith(SKEW.get(family, ())):
        name = re.sub(r"^(conv1|layer\d+\.\d+|linear)\.", r"\1.odefunc.", name)
        name = re.sub(r"^(conv1|layer\d+\.\d+)\.odefunc\.weight$", r"\1.odefunc.kernel", name)
    return name


def model_names(model: keras.Model) -> dict:
    """The weights of a model of `tfode_adv.models`, by the names that `translate` gives: name to variable."""
    return {name: variable for layer in model.layers for name, variable in _weights(layer, layer.name)}


def _weights(layer, prefix):
    parts = sublayers(layer, recursive=False)
    inner = {id(variable) for part in parts for variable in part.weights}
    for variable in layer.weights:
        if id(variable) not in inner and variable.name in WEIGHTS:
            yield f"{prefix}.{WEIGHTS[variable.name]}", variable
    for sublayer in parts:
        # An ODE block stands for its dynamics: the block's own name is the layer's.
        yield from _weights(sublayer, prefix if is_dynamics(layer, sublayer) else f"{prefix}.{sublayer.name}")


def is_dynamics(layer: keras.layers.Layer, sublayer: keras.layers.Layer) -> bool:
    return getattr(layer, "dynamics", None) is sublayer
