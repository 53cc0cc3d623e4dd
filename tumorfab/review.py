"""What people decided about samples: `qc/review.csv`, which the viewer writes and the release
keeps to.

A sample is named by the path of its sidecar below the results folder, without `.json`.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from tumorfab.stage import InputError, write_text

VERDICTS = ("accept", "reject")
COLUMNS = ["sample", "verdict", "note"]


@dataclass(frozen=True)
class Review:
    """A verdict of `VERDICTS` on one sample, and why, in one line."""

    verdict: str
    note: str = ""


def path(results: Path) -> Path:
    """Where the table of a study is."""
    return results / "qc" / "review.csv"


def read(table: Path) -> dict[str, Review]:
    """The verdicts by sample; none where there is no table.

    Raises `InputError` for a table that says something else than this module wrote: a release must
    not guess what a reviewer meant.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")  # as spreadsheets save it
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise InputError(f"{table}: is not UTF-8 text; save it as CSV in UTF-8") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    if next(rows, None) != COLUMNS:
        raise InputError(f"{table}: its first line must be {','.join(COLUMNS)}")
    reviews: dict[str, Review] = {}
    for row in rows:
        if not row:
            continue
        if len(row) != len(COLUMNS):
            raise InputError(f"{table}: line {rows.line_num} has {len(row)} cells, not 3; mend it")
        sample, verdict, note = row
        if verdict not in VERDICTS:
            raise InputError(
                f"{table}: line {rows.line_num}: verdict {verdict!r} is neither accept nor reject"
            )
        if sample in reviews:
            raise InputError(f"{table}: line {rows.line_num}: {sample} is there twice; drop one")
        reviews[sample] = Review(verdict, note)
    return reviews


def write(table: Path, reviews: dict[str, Review]) -> None:
    """Write the verdicts atomically, sorted by sample."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows([sample, r.verdict, r.note] for sample, r in sorted(reviews.items()))
    write_text(table, text.getvalue())
