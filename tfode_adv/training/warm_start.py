"""A training that does not start from nothing: weights of another run, and layers that stay as they are."""

from collections.abc import Sequence

import keras

from tfode_adv.errors import RunError, UsageError, check_choice
from tfode_adv.files import PathLike
from tfode_adv.run_folder import Run


def take_weights(model: keras.Model, folder: PathLike, start_anew: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Gives a model's layers the weights of the finished run's layers of the same names.

    Args:
        model: built; its layers that the run's network has not keep what they have.
        folder: the run's.
        start_anew: names of the model's layers that keep their own weights whatever the run has.

    Returns:
        The names of the layers with weights that took them, and of those that kept their own.

    Raises:
        UsageError: if a layer's weights have other shapes than its namesake's, or no layer has one, or all that have
            one are in `start_anew`, or for a name there that no layer with weights has.
        RunError: if the folder is no finished run.
    """
    run = Run.open(folder)
    if not run.finished:
        raise RunError(f"the run in {str(folder)!r} is not finished: there are no weights to start from")
    found = {layer.name: layer for layer in run.load_model().layers}
    ours = [layer for layer in model.layers if layer.weights]
    for name in start_anew:
        check_choice("layer to start anew", name, [layer.name for layer in ours])
    known = [layer for layer in ours if layer.name in found and layer.name not in start_anew]
    if not known and any(layer.name in found for layer in ours):
        given = ", ".join(start_anew)
        raise UsageError(f"start_anew is {given}, which leaves no layer that {str(folder)!r} has weights for")
    if not known:
        names = ", ".join(found)
        raise UsageError(f"start_from is {str(folder)!r}, but no layer of {model.name} is named as one of its: {names}")
    for layer in known:
        theirs = [tuple(weight.shape) for weight in found[layer.name].weights]
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes != theirs:
            raise UsageError(
                f"start_from is {str(folder)!r}, whose {layer.name!r} has weights {theirs}, but {model.name}'s {shapes}"
            )
    for layer in known:
        layer.set_weights(found[layer.name].get_weights())
    taken = [layer.name for layer in known]
    return taken, [layer.name for layer in ours if layer.name not in taken]


def train_only(model: keras.Model, names: Sequence[str]) -> None:
    """Freezes all of a model's layers but those named; a frozen batch norm uses and keeps its moving averages.

    Raises:
        UsageError: for a name that no layer with weights has, or if nothing is left to train.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    for name in names:
        check_choice("layer to train", name, layers)
    for name, layer in layers.items():
        layer.trainable = layer.trainable and name in names
    if not model.trainable_variables:
        raise UsageError(f"train_only is {', '.join(names)}, but no weight of these is trained")
