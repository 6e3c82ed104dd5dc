"""From a model and images to a diagnosis on the disk: what `bin/diagnose` does to a run, for any Keras model."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfode_adv import __version__, files
from tfode_adv.attacks import checks
from tfode_adv.attacks.norms import NORMS
from tfode_adv.diagnosis import fingerprint, procedure, writer
from tfode_adv.diagnosis.attack_table import Protocol
from tfode_adv.diagnosis.budgets import BUDGETS, TOLERANCES
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.measurements import Images
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.diagnosis.procedure import AtTolerance
from tfode_adv.diagnosis.reader import NAME, sections
from tfode_adv.errors import RunError, UsageError, check_choice, check_integer, check_range
from tfode_adv.evaluation.subject import check_images
from tfode_adv.models.oracle import as_function
from tfode_adv.progress import bar
from tfode_adv.rendering import page
from tfode_adv.rendering.document import Report
from tfode_adv.rendering.folder import PAGE

PIECES = "pieces"


@dataclasses.dataclass(frozen=True)
class Diagnosed:
    """What was found at each tolerance, the document it was written to, and notes on what was left out."""

    found: Sequence[AtTolerance]
    document: dict[str, Any]
    notes: Sequence[str]


def diagnose(
    model: keras.layers.Layer,
    x: np.ndarray,
    y: np.ndarray,
    folder: files.PathLike,
    *,
    norm: str = "linf",
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    gradient: str = "backprop",
    attacked_solver: str | None = None,
    attacked_num_steps: int | None = None,
    tols: Sequence[float] = TOLERANCES,
    fine_tol: float = 1e-4,
    budget: str = "quick",
    validation: np.ndarray | None = None,
    twin: Callable | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Any]:
    """Is a Keras model's robustness real? Audits its gradients, tries many attacks, and gives a verdict.

    Writes `diagnosis.json`, its pictures and a page, `index.html`, into `folder`; an earlier diagnosis there is
    replaced. Finished pieces are kept in `folder/pieces` and found again by the same model, images and settings,
    so a call that was stopped goes on where it was.

    Args:
        model: from images [N, H, W, C] in [0, 1] to logits [N, K], with or without ODE blocks. A layer of one's own
            is known by its class's name and settings: empty `folder/pieces` when its code has changed.
        x: test images [N, H, W, C] in [0, 1]; a few hundred are a start.
        y: their labels [N], integers.
        folder: where it all goes.
        norm, eps, step_size, steps: the attack that the others are held against, PGD without random start: the one
            that was published. `norm` is linf, l2 or l2rms; the default step is 2.5 eps / steps.
        gradient: that attack's: backprop, backprop_steps or adjoint; no matter for a model without ODE blocks.
        attacked_solver, attacked_num_steps: the solver that the attack was published on, and its number of steps if
            they are fixed, where that is not the model's own; an indicator holds one against the other.
        tols: tolerances to look at; no matter for a model that no tolerance changes.
        fine_tol: the tolerance taken for an accurate solve.
        budget: how hard to try: quick or full.
        validation: clean images [M, H, W, C] that the model was not trained on, to set detectors' thresholds; none
            leaves the detectors out.
        twin: from the same images to as many logits, and smooth: attacks take its gradient, and the model judges what
            they find. The model without what hides its gradient, say. Pieces of a twin that is no Keras model are
            not found again by another process.
        batch_size: images that go through the model at once.
        seed: where all random numbers start, at least 0.

    Returns:
        What `diagnosis.json` holds: {"verdict": {"label", "sentence", "worst_case", ...}, "indicators",
        "tolerances", "report", ...}; see `writer.write`.

    Raises:
        UsageError: for a value out of range, an unknown choice, or images and labels that do not fit the model.
        RunError: if no image is classified correctly, or the folder cannot be written or holds another page.
    """
    if not isinstance(model, keras.layers.Layer):
        raise UsageError(f"model is {model!r}, but must be a Keras model")
    images = _checked(model, x, y, validation)
    check_choice("norm", norm, NORMS)
    check_choice("budget", budget, BUDGETS)
    check_range("eps", eps, low=0, low_open=True)
    steps = check_integer("steps", steps, low=1)
    step_size = 2.5 * eps / steps if step_size is None else check_range("step_size", step_size, low=0, low_open=True)
    if not isinstance(tols, Sequence | np.ndarray) or isinstance(tols, str):
        raise UsageError(f"tols is {tols!r}, but must be a list of tolerances")
    for tol in tols:
        check_range("tols", tol, low=0, low_open=True)
    check_range("fine_tol", fine_tol, low=0, low_open=True)
    if not isinstance(folder, str | os.PathLike):
        raise UsageError(f"folder is {folder!r}, but must be a path")
    folder = pathlib.Path(folder)
    if (folder / PAGE).exists() and not (folder / NAME).exists():
        raise RunError(f"{str(folder / PAGE)!r} is there and is no diagnosis: name another folder")
    seed = check_integer("seed", seed, low=0)
    protocol = Protocol(norm, eps, step_size, steps, gradient, fine_tol, seed, attacked_solver, attacked_num_steps)
    done = carry_out(
        model,
        images,
        protocol,
        folder,
        digest=fingerprint.of_model(model),
        budget=budget,
        tols=tols,
        twin=_checked_twin(twin, images),
        batch_size=check_integer("batch_size", batch_size, low=1),
    )
    shown = Report(f"Diagnosis of {model.name}", [], sections(model.name, done.document, folder), done.document)
    files.write_atomic(folder / PAGE, page.render(shown))
    return done.document


def carry_out(
    model: keras.layers.Layer,
    images: Images,
    protocol: Protocol,
    folder: pathlib.Path,
    *,
    digest: str,
    budget: str,
    tols: Sequence[float],
    batch_size: int = 128,
    twin: Callable | None = None,
    named: Mapping[str, Any] | None = None,
) -> Diagnosed:
    """Diagnoses a model and writes the document with its pictures; `diagnose` for what is checked already.

    Args:
        digest: the model's, by which its finished pieces are found again.
        twin: what to differentiate in the model's place, if anything; `diagnose` tells more.
        named: more of what the document's settings show, before the rest.
    """
    probe = Probe(model, batch_size)
    # By what the images are, not where they lie: a run may move to another machine.
    arrays = images.x, images.y, images.validation
    settings = {"model": digest, "images": fingerprint.of_arrays(arrays), "version": __version__}
    if twin is not None:
        settings["twin"] = fingerprint.of_model(twin) if isinstance(twin, keras.layers.Layer) else f"at {id(twin)}"
    kept = KeptPieces(folder / PIECES, settings)
    total = procedure.pieces(probe, protocol, budget, tols)
    with bar(total=total, desc="diagnosis", unit="piece") as progress:

        def step(words: str) -> None:
            progress.set_postfix(now=words)
            progress.update()

        found = procedure.run(probe, images, protocol, budget=budget, tols=tols, kept=kept, step=step, twin=twin)
    shown = {
        **(named or {}),
        "test images": len(images.x),
        "norm": protocol.norm,
        "ε": protocol.eps,
        "step size": protocol.step_size,
        "steps": protocol.steps,
        "published gradient": protocol.gradient if probe.blocks else "the model's own",
        **({"attacked solver": protocol.attacked_words} if probe.blocks and protocol.solver else {}),
        "budget": budget,
        "seed": protocol.seed,
    }
    notes = _left_out(probe, images, found, tols)
    document = writer.write(folder, found, shown, protocol.steps, digest, notes)
    return Diagnosed(found, document, notes)


def _checked(model: keras.layers.Layer, x: np.ndarray, y: np.ndarray, validation: np.ndarray | None) -> Images:
    x = checks.images(x)
    # As data sets have them: a program is compiled for one type of labels.
    y = checks.labels(y, len(x)).astype(np.int64)
    if not len(x):
        raise UsageError("there are no images to look at")
    held_out = x[:0] if validation is None else checks.images(validation)
    if held_out.shape[1:] != x.shape[1:]:
        raise UsageError(f"validation images have shape {held_out.shape[1:]}, but the test images {x.shape[1:]}")
    check_images(model, x, y, "x and y")
    return Images(x, y, held_out)


def _checked_twin(twin: Callable | None, images: Images) -> Callable | None:
    if twin is None:
        return None
    if not callable(twin):
        raise UsageError(f"twin is {twin!r}, but must be a Keras model or a function from images to logits")
    shape = tuple(as_function(twin)(images.x[:1]).shape)
    if len(shape) != 2 or shape[1] <= images.y.max():
        raise UsageError(f"the twin returns shape {shape} for one image, but must return logits (1, classes)")
    return twin


def _left_out(probe: Probe, images: Images, found: Sequence[AtTolerance], tols: Sequence[float]) -> list[str]:
    """What was asked for and not looked at."""
    skipped = sorted(set(procedure.tolerances_of(probe, tols)) - {at.tol for at in found})
    notes = [f"At τ = {tol:g} no image is classified correctly: there is nothing to attack." for tol in skipped]
    if probe.blocks and not len(images.validation):
        notes.append("There are no validation images to set thresholds on: no detectors.")
    return notes
