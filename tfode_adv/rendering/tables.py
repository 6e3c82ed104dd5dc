"""One table as text, Markdown, LaTeX, CSV and plain JSON values (the HTML page draws it itself)."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from tfode_adv.rendering.rates import Rate

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "τ": r"$\tau$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "∞": r"$\infty$",
    "–": "--",
    "—": "---",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN = {character: "\\" + character for character in "\\|*_`[]#"} | {
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}


@dataclasses.dataclass(frozen=True)
class Compared:
    """Our rate beside a published one.

    Attributes:
        ours: None where it was not measured.
        published: the figure in print, in [0, 1]; None where there is none.
        decimals: digits after the point, as the published figure has them in print.
        percent: shown as a percentage, not as a fraction.
    """

    ours: Rate | None
    published: float | None
    decimals: int = 2
    percent: bool = False

    @property
    def deviates(self) -> bool:
        """Nothing that the published figure may have been rounded from lies in our 95 % interval."""
        if self.ours is None or self.ours.value is None or self.published is None:
            return False
        # Half a unit of the last digit in print, and a speck for floating point.
        half = 0.5 * 10.0**-self.decimals / (100 if self.percent else 1) + 1e-12
        low, high = self.ours.interval
        return self.published + half < low or self.published - half > high

    def __str__(self) -> str:
        ours = "–"
        if self.ours is not None and self.ours.value is not None:
            low, high = (self._digits(bound) for bound in self.ours.interval)
            ours = f"{self._digits(self.ours.value)} ({low}–{high})"
        published = "" if self.published is None else f" [{self._digits(self.published)}]"
        return f"{ours}{published}{'*' if self.deviates else ''}"

    def _digits(self, value: float) -> str:
        return f"{100 * value if self.percent else value:.{self.decimals}f}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ours = None if self.ours is None else self.ours.as_dict()
        return {"ours": ours, "published": self.published, "deviates": self.deviates}


@dataclasses.dataclass(frozen=True)
class Table:
    """Values under headers.

    Attributes:
        title: one line above it.
        headers: one a column.
        rows: a value a column: text, number, None, `Rate` or `Compared`.
        note: one line below it.
        folded: shown on a page only when asked for.
        name: a word for its file, of letters, digits and dashes; none where its number will do.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    folded: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row of {len(row)} values under {len(self.headers)} headers: {row!r}")

    def to_text(self) -> str:
        """Aligned columns for a terminal."""
        grid = [list(self.headers), *([show(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        numeric = [self.is_numeric(column) for column in range(len(self.headers))]
        lines = [
            "  ".join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in grid
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])]) + "\n"

    def to_markdown(self) -> str:
        """A GitHub-style table under a bold title."""
        rows = [[markdown(show(value)) for value in row] for row in self.rows]
        marks = ["---:" if self.is_numeric(column) else ":---" for column in range(len(self.headers))]
        lines = [[markdown(header) for header in self.headers], marks, *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        note = f"\n\n{markdown(self.note)}" if self.note else ""
        return f"**{markdown(self.title)}**\n\n{table}{note}\n"

    def to_latex(self) -> str:
        """A `table` with `booktabs` rules."""
        columns = "".join("r" if self.is_numeric(column) else "l" for column in range(len(self.headers)))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(self.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(latex, self.headers)) + r" \\",
            r"\midrule",
            *(" & ".join(latex(show(value)) for value in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip {latex(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Bare numbers; a rate takes three columns, value and bounds, and a published one a fourth."""
        spread = [self._parts(column) for column in range(len(self.headers))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            _inert(f"{header} {part}".strip())
            for header, parts in zip(self.headers, spread, strict=True)
            for part in parts
        )
        for row in self.rows:
            cells = (_part(value, part) for value, parts in zip(row, spread, strict=True) for part in parts)
            writer.writerow(map(_inert, cells))
        return out.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Title, note, headers and rows as plain JSON values."""
        rows = [[value.as_dict() if hasattr(value, "as_dict") else value for value in row] for row in self.rows]
        return {"title": self.title, "note": self.note, "headers": list(self.headers), "rows": rows}

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds nothing but numbers, which align to the right."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and not any(isinstance(value, str) for value in values)

    def _parts(self, column: int) -> list[str]:
        values = [row[column] for row in self.rows]
        if any(isinstance(value, Compared) for value in values):
            return ["", "low", "high", "published"]
        return ["", "low", "high"] if any(isinstance(value, Rate) for value in values) else [""]


def show(value: Any) -> str:
    """A value as people read it: a rate as a percentage with its interval, a number to four digits."""
    if value is None:
        return "–"
    if isinstance(value, Rate):
        if value.value is None:
            return "–"
        low, high = value.interval
        return f"{100 * value.value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def number(value: float | None) -> str:
    """A tolerance or a radius, short: 1e-4, 0.031, 1, or a dash."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.005:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def markdown(text: str) -> str:
    """Text with Markdown's and HTML's own characters escaped."""
    return "".join(_MARKDOWN.get(character, character) for character in " ".join(text.split()))


def latex(text: str) -> str:
    """Text with LaTeX's own characters escaped."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, marked as text, which it then shows as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _part(value: Any, part: str) -> Any:
    published = value.published if isinstance(value, Compared) else None
    rate = value.ours if isinstance(value, Compared) else value
    if part == "published":
        return published
    if not isinstance(rate, Rate):
        return value if part == "" and not isinstance(value, Compared) else None
    if rate.value is None:
        return None
    return {"": rate.value, "low": rate.interval[0], "high": rate.interval[1]}[part]
