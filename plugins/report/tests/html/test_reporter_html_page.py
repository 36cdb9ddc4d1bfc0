"""The page as a whole: valid, self-contained, safe, complete, and there for runs that lack parts."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool._contract.reporting import Requirement
from kdtool._results.comparisons import compare_all
from kdtool._results.files import read_results, write_results
from kdtool_report.html import HtmlReporter
from kdtool_report.html.comparisons import forest
from kdtool_report.html.page import page
from kdtool_report.html.wording import Subjects, interval
from kdtool_testing import ReporterConformance, empty_results, make_run

VOID = {"meta", "link", "br", "img", "input", "hr", "line", "rect", "circle"}
HOSTILE = "\"><script>alert('x')</script>&lt;b</pre></textarea></style>{{ 7 * 7 }}"


class TestHtmlReporter(ReporterConformance):
    component = HtmlReporter
    entry_point = "html"


class Checker(HTMLParser):
    """Collects what is wrong with a page: unbalanced tags, repeated ids, links to nothing, things fetched."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[int] = []
        self.scripts = 0
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            self._attribute(tag, name, value or "")
        if tag == "th" and "scope" not in found:
            self.problems.append("a table header without scope")
        if tag == "svg" and not found.get("aria-label") and found.get("aria-hidden") != "true":
            self.problems.append("a drawing without words")

    def _attribute(self, tag: str, name: str, value: str) -> None:
        is_link = name in {"href", "xlink:href"}
        fetches = name in {"src", "srcset", "poster", "data", "action"} or (is_link and not value.startswith("#"))
        if fetches or name.startswith("on") or "url(" in value:
            self.problems.append(f"<{tag} {name}={value!r}>")
        if name == "id":
            self.ids.append(value)
        if is_link or name == "aria-labelledby":
            self.references.append(value.removeprefix("#"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.problems == []
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert set(checker.references) <= set(checker.ids)
    assert checker.headings[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(checker.headings))
    return checker


def text_of(html: str) -> str:
    return " ".join(" ".join(check(html).texts).split())


def test_a_whole_run_is_shown(sample_page: str) -> None:
    html = sample_page
    text = text_of(html)
    for expected in (
        "better than control in perplexity and bits-per-byte; worse than control-time in perplexity and bits-per-byte;",
        "in likeness to the teacher (not an ability)",
        "Apache-2.0",
        "trained for their whole time as well, for every seed",
        "−18.5\u00a0% −23.7 to −13.4\u00a0% better",
        "Perplexity 64 items, 3 seeds",
        "2.49\u00a0×",
        "forward-kl",
        "near-duplicates: duplicate of an earlier file",
        "The teacher's signals took 3\u00a0min 08\u00a0s (in an earlier run). All seeds",
        "kdtool-teacher-causal-lm 0.1",
        "local file",
        "AutoModelForCausalLM.from_pretrained",
    ):
        assert expected.replace("\u00a0", " ") in text.replace("\u00a0", " "), expected
    curves, shares = 2 * 3, 1
    assert html.count('<svg role="img" viewBox') == curves + shares


def test_a_control_that_trained_on_other_tokens_is_not_called_one_of_equal_tokens(sample: kdtool.Results) -> None:
    arms = []
    for arm in sample.arms:
        more = (arm.arm, arm.seed) == ("control", 1)
        phases = {name: dataclasses.replace(one, tokens=one.tokens + more) for name, one in arm.phases.items()}
        arms.append(dataclasses.replace(arm, phases=phases))
    html = page(dataclasses.replace(sample, arms=tuple(arms), verdict="", recipe_text=""))
    assert "equal tokens" not in html.lower()
    assert "better than control in perplexity" in html


def test_a_browser_runs_only_the_page_s_own_script(sample_page: str) -> None:
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', sample_page)
    (script,) = re.findall("<script>(.*?)</script>", sample_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy.split("; ")
    assert sample_page.index(policy) < sample_page.index("<style>")


def test_missing_parts_leave_a_valid_page(sample: kdtool.Results) -> None:
    odd = {"licences": ["MIT"], "sources": [{"name": "a", "documents": 3}], "note": None, "share": 0.25}
    text = text_of(page(dataclasses.replace(sample, comparisons=(), data=odd)))
    assert "Verdict not compared with a control" in text
    assert "Nothing was exported in this run." in text_of(page(empty_results(sample.folder)))


def test_hostile_keys_names_and_answers_stay_text(sample: kdtool.Results, tmp_path: Path) -> None:
    """The suite of reporters has hostile text in all other places."""
    measured = [dataclasses.replace(one, subject=one.subject + HOSTILE) for one in sample.measurements]
    compared = [
        dataclasses.replace(one, against=f"control{HOSTILE}", measurement=HOSTILE) for one in sample.comparisons
    ]
    hostile: dict[str, Any] = {
        "name": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
        "data": {HOSTILE: {HOSTILE: HOSTILE}},
        "recipe": {HOSTILE: [HOSTILE]},
        "models": {HOSTILE: sample.models["student"]},
        "measurements": tuple(measured),
        "comparisons": tuple(compared),
        "requirements": (Requirement(HOSTILE, HOSTILE, 0.5, False, HOSTILE),),
    }
    checker = check(page(dataclasses.replace(sample, **hostile)))
    assert checker.scripts == 1
    assert "".join(checker.texts).count(HOSTILE) > 10
    found = answered(tmp_path, "student", [False], f"</pre>{HOSTILE}\ud800\u202e")
    checker = check(page(dataclasses.replace(sample, measurements=(found,), comparisons=())))
    assert checker.scripts == 1
    assert f"</pre>{HOSTILE}" in "".join(checker.texts)


def page_of(reports: Iterable[kdtool.StepReport]) -> str:
    """Return the page of a run that is only one training."""
    arm = kdtool.ArmResult("student", 0, Path("x"), {}, {"p": tuple(reports)})
    return page(dataclasses.replace(empty_results(Path("x")), arms=(arm,)))


@example([1.0, 5e-324])
@given(st.lists(st.floats(-1e30, 1e30) | st.sampled_from([float("nan"), float("inf")]), min_size=2, max_size=5))
@example([0.0, 5e-324])
def test_histories_with_any_numbers_are_drawn(values: list[float]) -> None:
    html = page_of(
        kdtool.StepReport(step, 9, step, float(step), value, 0.1, value, {"ce": kdtool.TermReport(value, 1.0, value)})
        for step, value in enumerate(values)
    )
    check(html)
    assert not re.search(r'd="[^"]*(nan|inf)', html)


def test_intervals_are_those_of_the_results_values(sample: kdtool.Results) -> None:
    (value,) = (one for one in sample.values if (one.arm, one.measurement) == ("student", "perplexity"))
    assert value.low is not None
    shown = text_of(page(sample))
    assert "Means over 3 seeds, with 95 % intervals over held-out items and seeds, and each seed’s value." in shown
    assert f" {interval(value.value - 0.5, value.value + 0.5, '')} seeds: " in shown
    unending = [dataclasses.replace(one, high=math.inf) if one is value else one for one in sample.values]
    assert f" {interval(value.low, math.inf, '')} seeds: " in text_of(
        page(dataclasses.replace(sample, values=tuple(unending)))
    )


def test_an_interval_without_end_is_drawn_to_the_edge(sample: kdtool.Results, tmp_path: Path) -> None:
    """So it is where a seed diverged."""
    found = next(one for one in sample.comparisons if one.measurement == "perplexity" and one.against == "control")
    open_end: Any = {"difference": 4e49, "low": -1.0, "high": math.inf, "verdict": "no evidence of a difference"}
    endless = dataclasses.replace(found, **open_end)
    write_results(dataclasses.replace(sample, comparisons=(endless,), folder=tmp_path))
    assert "+4.00e+51 % −100 % to +∞" in text_of(page(read_results(tmp_path))).replace("\u00a0", " ")
    (drawn,) = forest([endless], {"perplexity": "per token"}, {"perplexity": False}, Subjects(sample.subjects))
    (row,) = drawn.rows
    assert 0 < row.low < row.at < row.high == 100


@pytest.mark.parametrize("odd", [getattr(os, "mkfifo", Path.touch), lambda path: path.symlink_to("elsewhere")])
def test_the_reporter_replaces_the_page(odd: Callable[[Path], None], tmp_path: Path, sample: kdtool.Results) -> None:
    run = make_run(tmp_path / "run")
    run.folder.mkdir(exist_ok=True)
    odd(run.folder / "report.html.writing")
    reporter = HtmlReporter(HtmlReporter.Config())
    path = reporter.kdtool_report(run, sample)
    assert reporter.kdtool_report(run, dataclasses.replace(sample, name="second")) == path
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_the_page_names_no_folder_of_this_machine(tmp_path: Path, sample: kdtool.Results) -> None:
    def made(file: kdtool.Artifact) -> kdtool.Artifact:
        path = tmp_path / "exports" / file.path.name
        return dataclasses.replace(file, path=path, how_to_use=f"open {path}")

    arms = [dataclasses.replace(arm, artifacts=tuple(map(made, arm.artifacts))) for arm in sample.arms]
    write_results(dataclasses.replace(sample, arms=tuple(arms), folder=tmp_path))
    html = page(read_results(tmp_path))
    assert str(tmp_path) not in html
    assert f"exports/{arms[0].artifacts[0].path.name}" in html


def answered(folder: Path, subject: str, passed: list[bool], answer: str) -> kdtool.Measurement:
    file, shown = folder / f"{subject}.jsonl", {"answer": answer, "verdict": "passed"}
    items = ({"item": f"task/{n}", "sum": float(one), "weight": 1.0, "shown": shown} for n, one in enumerate(passed))
    file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    share = sum(passed) / len(passed)
    return kdtool.Measurement("bench.pass@1", subject, "fraction", share, len(passed), True, items=file)


def test_answers_of_all_subjects_stand_together(sample: kdtool.Results, tmp_path: Path) -> None:
    found = (
        answered(tmp_path, "student-seed0", [True, False], "return 41 + 1"),
        answered(tmp_path, "teacher", [True, True], "return 42"),
    )
    results = dataclasses.replace(sample, measurements=(*sample.measurements, *found))
    text = text_of(page(results))
    assert "Answers: bench.pass@1" in text
    assert "task/1 · Teacher 1 · Student, seed 0 0" in text
    assert "Student, seed 0: Answer return 41 + 1" in text
    for line in ("[" * 100_000, "[1]", "{}"):
        (tmp_path / "teacher.jsonl").write_text(line, encoding="utf-8")
        with pytest.raises(kdtool.StorageError, match=r"teacher\.jsonl cannot be read"):
            page(results)


def test_the_share_of_the_teacher_is_that_of_the_scores(sample: kdtool.Results, tmp_path: Path) -> None:
    solved = {"teacher": 16, "student": 12, "student-q4": 4}
    found = tuple(answered(tmp_path, name, [number < of for number in range(20)], "") for name, of in solved.items())
    compared, _ = compare_all(found, sample.subjects, {name: name for name in solved})
    text = text_of(page(dataclasses.replace(sample, measurements=found, comparisons=tuple(compared))))
    for label, share in {"Student": 75, "Exported: q4": 25}.items():
        shown = re.search(rf"Bench: pass@1 {label} Teacher [^%]+ {share} % \((\d+) to (\d+) %\) 20 items", text)
        assert shown is not None, text
        assert int(shown[1]) < share < int(shown[2]), "12 of 20 are three quarters of 16 of 20, 4 of 20 a quarter"


def test_a_long_list_is_cut_shows_failures_first_and_says_where_the_rest_is(
    sample: kdtool.Results, tmp_path: Path
) -> None:
    passed = [number % 100 != 99 for number in range(2000)]
    folder = tmp_path / "run"
    (folder / "scores").mkdir(parents=True)
    found = (
        answered(folder / "scores", "student", passed, "<" * 4000),
        answered(tmp_path, "teacher", [True] * 2000, "\u202e" * 4000),
    )
    html = page(dataclasses.replace(sample, measurements=found, comparisons=(), arms=(), folder=folder))
    assert len(html.encode()) < 1.2 * 1024 * 1024
    text = text_of(html)
    shown = [int(number) for number in re.findall(r"task/(\d+) ·", text)]
    failed = [number for number, one in enumerate(passed) if not one]
    assert shown[: len(failed)] == failed[: len(shown)], "failures first, in their order"
    assert len(shown) == len(set(shown))
    said = f"The {len(shown)} items with the worst results; {2000 - len(shown)} more are in the run's files:"
    assert said in text
    files = ("scores/student.jsonl", str(tmp_path / "teacher.jsonl"))
    assert any(f"{', '.join(order)}." in text for order in (files, files[::-1]))


def test_what_should_be_small_and_is_large_has_failed(sample: kdtool.Results, tmp_path: Path) -> None:
    found = dataclasses.replace(answered(tmp_path, "student", [False, True, False], "x"), higher_is_better=False)
    html = page(dataclasses.replace(sample, measurements=(found,)))
    assert re.findall(r"task/(\d+) ·", text_of(html)) == ["1", "0", "2"]


def test_losses_of_other_terms_are_not_drawn_on_one_axis(sample_page: str) -> None:
    assert "Weighted loss" not in sample_page
    bare = (kdtool.StepReport(step, 9, step, float(step), 1.0 / step, 1e-3, 1.0, {}) for step in range(1, 9))
    assert "Weighted loss" in page_of(bare), "it is all that is known"


def test_comparisons_of_few_items_are_folded_and_those_of_many_come_first(sample: kdtool.Results) -> None:
    items = {"perplexity": 8, "bits-per-byte": 20, "kl-to-teacher": 64, "top-1-agreement-with-teacher": 11}
    compared = tuple(dataclasses.replace(one, items=items[one.measurement]) for one in sample.comparisons)
    html = page(dataclasses.replace(sample, comparisons=compared))
    shown, _, folded = html.partition("Too few items to judge (under 12): Perplexity, Top-1 agreement with teacher")
    headings = r"<figcaption>([\w -]+?) <span"
    assert re.findall(headings, shown) == ["KL to teacher", "Bits per byte"]
    assert re.findall(headings, folded)[:2] == ["Perplexity", "Top-1 agreement with teacher"]
