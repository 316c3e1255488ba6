"""The suite `viewer`: pages of thumbnails of 500 KB pictures by htview, from nginx on this machine."""

from __future__ import annotations

from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_viewer:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    pages = 1_000 if scale == "full" else 50
    cold = Row("htview", OURS + "first_page", {}, "no picture was read before")
    warm = Row("htview", OURS + "same_page", {})
    many = Row("htview", OURS + "many_pages", {"pages": pages}, "each tenth is new")
    return [
        Table("first", "The first page of 48 pictures", (cold,), (Target("htview", 1, figure="seconds"),)),
        Table("again", "The same page again", (warm,), (Target("htview", 0.2, figure="seconds"),)),
        Table("many", f"{pages:,} pages", (many,), (Target("htview", 300, figure="peak"),), repeat=1),
    ]
