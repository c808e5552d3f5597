"""Collect the problems and repairs of a dataset, so that one message names them all."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, shorten

REPAIRS = "_repairs"  # key under which these readers give a Counter for `Report.repairs`
SOURCE = "_source"  # key under which readers of other formats than COCO's give an annotation its name in messages
MAX_EXAMPLES = 10
REMEDIES = {  # config key -> what it leaves out
    "drop_bad_objects": "annotation(s)",
    "skip_unreadable": "image(s)",
}


@dataclass
class Report:
    """Problems of one annotation file, counted by kind.

    A problem's text starts with its kind, and details follow after a colon: "bbox has no area: [10, 5, 0, 4]".

    Attributes:
        path: the annotation file.
        counts: (kind, config key that leaves such entries out, or None) -> number of entries.
        examples: the first problems of each of these keys, with the name of the entry.
        repairs: what was repaired or derived -> number of entries.
    """

    path: Path
    counts: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    examples: dict[str | None, list[str]] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, problem: str, remedy: str | None = None) -> None:
        """Add a problem of the entry called `name`; the config key `remedy` leaves the entry out."""
        self.counts[problem.partition(":")[0], remedy] += 1
        examples = self.examples.setdefault(remedy, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(f"{shorten(name)}: {shorten(problem, 200)}")

    def count(self, remedy: str) -> int:
        """Return how many entries have a problem that `remedy` leaves out."""
        return sum(count for (_, key), count in self.counts.items() if key == remedy)

    def raise_problems(self, allowed: set[str]) -> None:
        """Raise InputError with the first problems and the number of each kind, except those of the allowed remedies.

        The message is one line.
        """
        counts = {key: count for key, count in self.counts.items() if key[1] not in allowed}
        total = sum(counts.values())
        if not total:
            return
        examples = [text for key, texts in self.examples.items() if key not in allowed for text in texts]
        message = examples[0]
        if total > 1:
            kinds = ", ".join(f"{count} x {kind}" for (kind, _), count in counts.items())
            message = f"{total} problems ({kinds}): " + " | ".join(examples[:MAX_EXAMPLES])
        for remedy, entries in REMEDIES.items():
            number = sum(count for (_, key), count in counts.items() if key == remedy)
            if number:
                message += f"; {remedy}=true leaves " + ("it out" if total == 1 else f"out {number} {entries}")
        raise InputError(f"{self.path}: {message}")

    def lines(self) -> list[str]:
        """Return lines on what was left out and what was repaired."""
        left_out = []
        for remedy, entries in REMEDIES.items():
            kinds = [f"{count} x {kind}" for (kind, key), count in self.counts.items() if key == remedy]
            if kinds:
                example = self.examples[remedy][0]
                left_out.append(f"left out {self.count(remedy)} {entries} ({', '.join(kinds)}), first: {example}")
        return left_out + [f"{text}: {count}" for text, count in self.repairs.items()]
