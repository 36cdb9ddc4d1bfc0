"""The reporter `html`: writes the page into the folder of the run."""

from __future__ import annotations

from pathlib import Path

import kdtool

__all__ = ["HtmlReporter"]


class HtmlReporter(kdtool.Reporter):
    """Writes `report.html`: verdict, tables with intervals, curves, costs, recipe, and how to use the student."""

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
        """Write the page and return its path; an earlier page is replaced at once, never left half written."""
        from kdtool_reporter_html._page import page

        path = run.folder / "report.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".html.partial")
        partial.write_text(page(results), encoding="utf-8")
        partial.replace(path)
        return path
