"""How long a user waits for a command to begin: imports, help, mistakes of flags, and a small evaluation.

    python benchmarks/start.py --run=runs/demo --checkouts=../before,.

The checkouts take turns, so that what else the machine does meets both. A run of `bin/demo` is evaluated anew each
time, in a copy of its own. About ten minutes for two checkouts.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

flags.DEFINE_string("run", "runs/demo", "The run that is evaluated.")
flags.DEFINE_list("checkouts", ["."], "Folders of checkouts, one a column.")
flags.DEFINE_integer("rounds", 5, "How often each command is run.", lower_bound=1)
FLAGS = flags.FLAGS

COMMANDS = (
    ("python", "-c", "import tensorflow"),
    ("python", "-c", "import tfode_adv"),
    ("bin/train", "--help"),
    ("bin/evaluate", "--help"),
    ("bin/evaluate", "--attack=help"),
    ("bin/evaluate", "--attack=pdg"),
    ("bin/evaluate", "--run=nowhere"),
    ("bin/train", "--model=onn"),
    ("bin/diagnose", "--budget=huge"),
    ("bin/report", "nowhere"),
    ("bin/evaluate", "--run=RUN", "--attack=pgd", "--num_examples=16", "--overwrite"),
)


def seconds(command, checkout, run):
    """The time that one command takes, from its start to its end."""
    program, *arguments = (part.replace("RUN", str(run)) for part in command)
    start = [sys.executable] if program == "python" else [sys.executable, str(checkout / program)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    before = time.perf_counter()
    subprocess.run([*start, *arguments], env=environment, cwd=run.parent, stdout=-3, stderr=-3, check=False)
    return time.perf_counter() - before


def main(argv):
    del argv
    checkouts = [pathlib.Path(each).resolve() for each in FLAGS.checkouts]
    print(f"| command | {' | '.join(FLAGS.checkouts)} |\n| --- {'| ---: ' * len(checkouts)}|")
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        shutil.copytree(FLAGS.run, run)
        for command in COMMANDS:
            taken = [[] for _ in checkouts]
            for _ in range(FLAGS.rounds):
                for times, checkout in zip(taken, checkouts, strict=True):
                    times.append(seconds(command, checkout, run))
            medians = " | ".join(f"{statistics.median(times):.2f}" for times in taken)
            print(f"| `{' '.join(command)}` | {medians} |", flush=True)


if __name__ == "__main__":
    app.run(main)
