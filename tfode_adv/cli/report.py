"""Makes a report of run folders: one HTML page, and the same as Markdown, LaTeX, CSV and JSON.

bin/report runs/NAME                     writes runs/NAME/report/index.html
bin/report runs/A runs/B --out=compared  one report on both; shards of one model are merged
"""

import pathlib

from absl import flags as absl_flags

from tfode_adv.cli import app, flags
from tfode_adv.cli.run_argument import located
from tfode_adv.errors import UsageError
from tfode_adv.rendering import folder
from tfode_adv.reports import report

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_string(
    "out", None, "The report's folder (default: report/ in the first run folder).", flag_values=FLAGS
)
flags.define_integer("num_examples", None, "Only the first so many images.", FLAGS)
absl_flags.DEFINE_boolean("overwrite", False, "Write into a folder that holds something else.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UsageError("no run folder is given: bin/report RUN...")
    paths = [located(path) for path in argv[1:]]
    out = pathlib.Path(FLAGS.out) if FLAGS.out else pathlib.Path(paths[0]) / "report"
    page = folder.write(report.of_runs(paths, FLAGS.num_examples), out, FLAGS.overwrite)
    print(f"wrote {page}")


def run() -> None:
    app.run(main, FLAGS, positional=True)
