"""The suite of reporters."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
from kdtool import Results, RunInfo, StepReport, TermReport

from kdtool_testing.component import ComponentConformance
from kdtool_testing.results import empty_results, make_results

__all__ = ["ReporterConformance"]

HOSTILE = "\"'><kdtool-tag kdtool-attribute=1></script></style></textarea><!-- {{ 7 * 7 }} ${x} & é \u2028"
_PAGES = {".html", ".htm", ".xhtml", ".svg"}


class ReporterConformance(ComponentConformance):
    """A report is one file below the run's folder that needs nothing else, for every run there can be.

    For pages also: text stays text, and nothing is fetched.
    """

    kind: ClassVar[str] = "reporter"

    def test_it_writes_one_file_below_the_run_s_folder(self, run: RunInfo) -> None:
        before = set(run.folder.rglob("*"))
        path = self.ready(run).kdtool_report(run, make_results(run.folder))
        assert path.resolve().is_relative_to(run.folder.resolve())
        assert {found for found in set(run.folder.rglob("*")) - before if found.is_file()} == {path}
        assert path.stat().st_size

    def test_the_same_results_give_the_same_report(self, run: RunInfo) -> None:
        results = make_results(run.folder)
        first = self.ready(run).kdtool_report(run, results)
        content = first.read_bytes()
        assert self.ready(run).kdtool_report(run, results) == first, "a new report replaces the old one"
        assert first.read_bytes() == content

    def test_it_covers_the_run(self, run: RunInfo) -> None:
        text = self._write(run, make_results(run.folder))
        for word in ("small", "perplexity"):
            assert word in text

    def test_a_run_that_found_out_nothing_is_reported(self, run: RunInfo) -> None:
        assert "small" in self._write(run, empty_results(run.folder))

    @pytest.mark.parametrize(
        "missing",
        [
            "measurements",
            "comparisons",
            "arms",
            "stages",
            "components",
            "models",
            "data",
            "recipe",
            "subjects",
            "licences",
        ],
    )
    def test_runs_that_lack_a_part_are_reported(self, run: RunInfo, missing: str) -> None:
        results = make_results(run.folder)
        self._write(run, replace(results, **{missing: type(getattr(results, missing))()}))

    def test_any_numbers_are_reported(self, run: RunInfo) -> None:
        results = make_results(run.folder)
        for number in (float("nan"), float("inf"), -1e300, 0.0):
            measurements = tuple(
                replace(measured, value=number, low=number, high=number) for measured in results.measurements
            )
            report = StepReport(1, 1, 0, 0.0, number, number, number, {"ce": TermReport(number, number, number)})
            arms = tuple(replace(arm, histories={"distil": (report,)}) for arm in results.arms)
            self._write(run, replace(results, measurements=measurements, arms=arms))
        endless = tuple(
            replace(comparison, difference=1e300, low=low, high=float("inf"), verdict="no evidence of a difference")
            for comparison in results.comparisons
            for low in (-1.0, float("-inf"))
        )
        self._write(run, replace(results, comparisons=endless))

    def test_text_stays_text(self, run: RunInfo) -> None:
        path = self.ready(run).kdtool_report(run, make_results(run.folder, lambda text: f"{text} {HOSTILE}"))
        if path.suffix.lower() in _PAGES:
            page = _Page(path)
            assert "kdtool-tag" not in page.tags, "a text of the results became a tag"
            assert "kdtool-attribute" not in page.attributes
            assert "49" not in "".join(page.texts).split("{{ 7 * 7 }}")[0][-200:], "a text of the results was executed"
            assert "kdtool-tag" in "".join(page.texts), "texts are shown as they are"

    def test_a_page_needs_nothing_else(self, run: RunInfo) -> None:
        path = self.ready(run).kdtool_report(run, make_results(run.folder))
        if path.suffix.lower() in _PAGES:
            page = _Page(path)
            assert page.fetched == []
            styles = re.findall(r"@import|url\(\s*['\"]?(?!data:|#)", path.read_text(encoding="utf-8"))
            assert styles == [], "styles fetch something"

    def _write(self, run: RunInfo, results: Results) -> str:
        path: Path = self.ready(run).kdtool_report(run, results)
        return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Tags, attributes and texts of a page, as a browser reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the tag, and what it would fetch."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        for name, value in attrs:
            fetches = name in {"src", "srcset", "poster", "data", "xlink:href"} or (name == "href" and tag == "link")
            if fetches and not (value or "").startswith(("data:", "#")):
                self.fetched.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        """Remember the text."""
        self.texts.append(data)
