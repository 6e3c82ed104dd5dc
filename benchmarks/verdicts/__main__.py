"""What a diagnosis calls planted models whose truth is known.

python -m benchmarks.verdicts [NAME ...]     all, or some; a model that is done is not done again
python -m benchmarks.verdicts --table        the page, results/verdicts/README.md, from what is done

Of the page only what stands between its two marks is written anew.
"""

import argparse
import json
import pathlib
import sys
import time

import keras
import numpy as np

import tfode_adv as ta
from benchmarks.verdicts import held_out, planted, table
from benchmarks.verdicts.independent import robust
from benchmarks.verdicts.networks import FOLDER, IMAGES, images
from tfode_adv.run_folder import git_revision

DONE = FOLDER / "done"
MODELS = planted.MODELS
HELD_OUT = [name for name, make in MODELS.items() if make.__module__ == held_out.__name__]
RESULTS = pathlib.Path(__file__).resolve().parents[2] / "results" / "verdicts"


def diagnosed(name: str) -> dict:
    """One planted model's truth, its diagnosis and the independent attack's bound."""
    made = MODELS[name]()
    x, y = images("test", IMAGES)
    y = y % made.classes
    bound = FOLDER / "bounds" / f"{name}.json"
    if not bound.exists():
        clean, left = robust(made, x, y)
        bound.parent.mkdir(parents=True, exist_ok=True)
        bound.write_text(json.dumps([int(clean.sum()), int(left.sum())]))
    begun, spent = time.time(), time.process_time()
    # Pieces of a run that was stopped are found again: empty the folder when what makes them has changed.
    folder = FOLDER / "diagnoses" / name
    document = ta.reports.diagnose(made.model, x, y, folder, norm=made.norm, eps=made.eps, **made.options)
    verdict = document["verdict"]
    values = {one["name"].split(" (")[0]: one["value"] for one in document["indicators"] if one["group"] == "masking"}
    return {
        "truth": made.truth,
        "commit": git_revision(),
        "norm": made.norm,
        "eps": made.eps,
        "independent": json.loads(bound.read_text()),
        "seconds": [time.time() - begun, time.process_time() - spent],
        "indicators": values,
        "deciding": [
            one["name"] for one in document["indicators"] if one["group"] != "informing" and not one["passed"]
        ],
        "sentence": verdict["sentence"],
        **{key: verdict[key] for key in ("label", "gradients", "clean", "published", "worst_case", "hidden", "set_by")},
    }


def main(arguments: list[str]) -> None:
    """Runs the models named, or all, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(MODELS)}")
    parser.add_argument("--table", action="store_true", help="runs no model")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in MODELS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no planted model; they are: {', '.join(MODELS)}")
    for name in [] if given.table else given.names or MODELS:
        if (DONE / f"{name}.json").exists():
            continue
        one = diagnosed(name)
        DONE.mkdir(parents=True, exist_ok=True)
        (DONE / f"{name}.json").write_text(json.dumps(one, default=float))
        print(f"{name:18s} {one['truth']:7s} {one['label']:12s} {one['gradients']:10s}", end=" ")
        print(f"{one['clean']} {one['published']} {one['worst_case']} independent {one['independent']}", end=" ")
        print(f"{one['seconds'][0]:.0f} s, {one['set_by']}, {one['deciding']}", flush=True)
        keras.backend.clear_session()
    found = {name: DONE / f"{name}.json" for name in MODELS}
    done = {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}
    page = RESULTS / "README.md"
    page.write_text(table.put_into(page.read_text(encoding="utf-8"), done, list(MODELS), HELD_OUT), encoding="utf-8")
    (RESULTS / "verdicts.json").write_text(json.dumps(done, indent=1, sort_keys=True, default=float) + "\n")
    print(np.round(sum(one["seconds"][0] for one in done.values())), "s of diagnoses")


if __name__ == "__main__":
    main(sys.argv[1:])
