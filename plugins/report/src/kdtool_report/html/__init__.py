"""The reporter `html`: one self-contained page about a run.

The engine calls `HtmlReporter` once at the end of a run. Each section of the page is made by one module, which computes
plain records; only `page.html.j2` writes markup, and it escapes everything. Nothing is fetched, now or when the page is
read.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import kdtool


class HtmlReporter(kdtool.Reporter):
    """Writes `report.html`: verdict, tables with intervals, curves, costs, recipe, and how to use the student."""

    class Config(kdtool.Config):
        """Settings of `html`."""

        dollars_per_hour: Decimal | None = kdtool.Field(default=None, ge=0, le=1_000_000)
        """Price of an hour of the machine that trains, for the break-even; null states hours."""

    config: Config

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
        """Write the page and return its path; an earlier page is replaced at once, never left half written."""
        from kdtool_report.html.page import page

        path = run.folder / "report.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        kdtool.write_beside(path, page(results, self.config.dollars_per_hour))
        return path
