"""What a report is made of, whatever it is about and however it is written."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfode_adv.rendering.charts import Picture
from tfode_adv.rendering.tables import Table


@dataclasses.dataclass(frozen=True)
class Card:
    """One image under one attack.

    Attributes:
        index: the image's place in its split.
        clean, adversarial, perturbation: the pictures.
        factor: what the perturbation was magnified by.
        turned: whether the attack succeeded.
        text: label, predictions and distance.
    """

    index: int
    clean: Picture
    adversarial: Picture
    perturbation: Picture
    factor: str
    turned: bool
    text: str

    @property
    def pictures(self) -> tuple[Picture, Picture, Picture]:
        """Clean image, image under attack, perturbation."""
        return self.clean, self.adversarial, self.perturbation


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The cards of one configuration; the title says how many images there are beyond them."""

    title: str
    cards: Sequence[Card]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Names and values under a title."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report; what it has none of is left out.

    Attributes:
        title: its heading.
        lines: paragraphs.
        verdicts: sentences to be set off.
        tables, pictures, galleries, settings: shown in this order.
        commands: lines for a shell.
    """

    title: str
    lines: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    galleries: Sequence[Gallery] = ()
    commands: Sequence[str] = ()
    settings: Sequence[Settings] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a board.

    Attributes:
        title, subtitle: what it is about.
        facts: names and values: text, a number, None, `Rate` or `Compared`.
        label: in a word or two, what is to be thought of it; kind: the word that colours it.
        note: a sentence, or none.
        commands: lines for a shell.
        places: its place in each order of the board, from 0.
        evidence: a file beside the page that shows it, if any.
    """

    title: str
    subtitle: str
    facts: Sequence[tuple[str, Any]]
    label: str
    kind: str
    note: str
    commands: Sequence[str]
    places: Sequence[int]
    evidence: str | None = None


@dataclasses.dataclass(frozen=True)
class Board:
    """Rows that a reader may put in several orders.

    Attributes:
        title, lead, foot: around the rows.
        orders: the orders' names, the first that of the page as it opens.
        rows: in any order.
    """

    title: str
    lead: Sequence[str]
    orders: Sequence[str]
    rows: Sequence[Entry]
    foot: str = "Written by tfode_adv."


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is written.

    Attributes:
        title, lead, foot: around the sections.
        headlines: the few facts that matter most.
        sections: in order.
        data: the JSON file.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    data: dict[str, Any]
    headlines: Sequence[str] = ()
    foot: str = "Written by tfode_adv."

    @property
    def tables(self) -> list[Table]:
        """Every table of every section."""
        return [table for section in self.sections for table in section.tables]
