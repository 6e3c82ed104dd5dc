"""HTML pages: one file each that needs no network, with everything from outside escaped."""

from typing import Any

import jinja2
import markupsafe

from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Compared, show

# No script, no frame, nothing fetched: were anything of a run's let through as HTML, it could not act.
CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(report: Any) -> str:
    """A `document.Report` as an HTML page."""
    return _environment().get_template("report.html").render(report=report, policy=CONTENT_SECURITY_POLICY)


def render_board(board: Any) -> str:
    """A `document.Board` as an HTML page that can be sorted."""
    return _environment().get_template("board.html").render(board=board, policy=CONTENT_SECURITY_POLICY)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfode_adv.rendering"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = _cell
    environment.tests["deviating"] = lambda value: isinstance(value, Compared) and value.deviates
    environment.tests["worst"] = lambda value: isinstance(value, str) and value.startswith("worst")
    environment.tests["lengthy"] = lambda value: isinstance(value, str) and len(value) > 40
    environment.tests["verdictive"] = lambda value: value in ("pass", "fail")
    return environment


def _cell(value: Any) -> markupsafe.Markup:
    """A table's value with its interval in small type."""
    text = show(value)
    if not isinstance(value, Rate | Compared) or "(" not in text:
        return markupsafe.escape(text)
    before, _, rest = text.partition("(")
    inside, _, after = rest.partition(")")
    return markupsafe.Markup('{}<span class="range">({})</span>{}').format(before, inside, after)
