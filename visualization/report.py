"""Fill the HTML template of a run's report; every value is escaped, pictures are embedded."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

TEMPLATE = Path(__file__).with_name("report.html")

Picture = tuple[str, str]  # data URI, text for readers who do not see it
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # caption, headers, rows of cells


@dataclass(frozen=True)
class Bar:
    """A row of a table that ends in a bar of `percent` of its width."""

    name: str
    meaning: str
    cells: Sequence[str]
    percent: float


@dataclass
class Section:
    """A section of the page; what is empty is left out.

    Attributes:
        title: heading, also in the list of contents.
        texts: sentences.
        missing: sentences on what the run does not have.
        pictures, tables: one below the other.
        bars: caption, headers and rows of tables with bars.
        samples: small pictures, two in a row where there is room.
        legend: meaning, colour and line style (as CSS has it) of the boxes in the samples.
        listings: caption and text of what is shown as it is.
    """

    title: str
    texts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    bars: list[tuple[str, Sequence[str], Sequence[Bar]]] = field(default_factory=list)
    samples: list[Picture] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    listings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Anchor of the section."""
        return "-".join(self.title.lower().split())


def embed_picture(draw: Callable[[io.BytesIO], None], format: str = "png") -> str:
    """Return the data URI of what `draw` writes into a file."""
    buffer = io.BytesIO()
    draw(buffer)
    return f"data:image/{format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render_report(
    name: str,
    subtitle: str,
    notes: Sequence[str],
    headline: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> str:
    """Return the page. Text stays text, whatever is in it.

    Args:
        name: of the run.
        subtitle: line below it.
        notes: sentences that the reader must know first.
        headline: label and value of the main numbers.
        facts: label and value of lines below them.
        sections: the rest of the page.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    values: Mapping[str, Any] = {
        "name": name,
        "subtitle": subtitle,
        "notes": notes,
        "headline": headline,
        "facts": facts,
        "sections": sections,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)
