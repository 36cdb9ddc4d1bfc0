"""The page: assembles the sections and renders the template.

The control is named after its match with the student. A control for equal tokens may have trained on more or fewer
tokens than the student: if the student also trained on its shorter on-policy text, or if one of them stopped early.
Then the page names the same rows instead, as the verdict does.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import jinja2
import kdtool
from kdtool_essentials.claims import compare_claims
from markupsafe import Markup

from kdtool_report.html import accounts, answers, charts, comparisons, exports, record, summary
from kdtool_report.html.wording import REFERENCE, SAME_ROWS, Subjects


def page(results: kdtool.Results, dollars_per_hour: Decimal | None = None) -> str:
    """Return the whole page. Missing parts of a run are omitted, or named as missing.

    Args:
        results: the run.
        dollars_per_hour: the price of the machine that trained; None leaves training without a price.
    """
    outcome, results = results.outcome, as_it_trained(results)
    units = {measurement.name: measurement.unit for measurement in results.measurements}
    higher = {measurement.name: measurement.higher_is_better for measurement in results.measurements}
    subjects = Subjects(results.subjects, results.values)
    seeds = summary.seeds_of(results)
    against_controls = comparisons.with_controls(results.comparisons, subjects)
    with_reference = [each for each in results.comparisons if (each.arm, each.against) == ("student", REFERENCE)]
    quality = summary.quality(results, subjects)
    money = accounts.money_of(results, subjects, dollars_per_hour)
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        results=results,
        outcome=outcome,
        referred=bool(with_reference),
        measured_only=bool(results.measurements) and not results.arms,
        tiles=summary.tiles(results, subjects, money),
        quality=quality,
        markdown=summary.markdown(quality),
        seeds=seeds,
        claims=list(compare_claims(results.recipe, results.values)),
        pairs=comparisons.pairs(results.comparisons, units, subjects),
        forest=comparisons.forest([*against_controls, *with_reference], units, higher, subjects),
        samples=answers.samples(results, subjects),
        exports=exports.exports(results, subjects),
        answers=answers.answers(results, subjects),
        phases=charts.phases(results.arms),
        sizes=summary.costs(results, subjects),
        data=record.blocks(results.data),
        rejections=accounts.rejections(results.data),
        costs=record.costs(results),
        money=money,
        notes=record.notes(results),
        commands=record.commands(results.name),
        usage=record.usage(results),
        config_text=record.config_text,
        resolved=json.dumps(dict(results.recipe), indent=2, ensure_ascii=False, default=str) if results.recipe else "",
        style=_own_file(folder / "page.css"),
        script=(script := _own_file(folder / "page.js")),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )


def _own_file(path: Path) -> Markup:
    """Read a file of this package, to be inserted unescaped."""
    return Markup(path.read_text(encoding="utf-8"))  # noqa: S704 - nothing of a run is in it


_CONTROL = "control"


def as_it_trained(results: kdtool.Results) -> kdtool.Results:
    """Return the results with the control renamed to `control-rows` if its token count differs from the student's."""
    trained = {
        (arm.arm, arm.seed): sum(phase.tokens for phase in arm.phases.values())
        for arm in results.arms
        if arm.arm in ("student", _CONTROL)
    }
    if all(trained.get(("student", seed), tokens) == tokens for (_, seed), tokens in trained.items()):
        return results
    return replace(
        results,
        arms=tuple(replace(arm, arm=_rename_control(arm.arm)) for arm in results.arms),
        subjects=tuple(
            replace(subject, arm=SAME_ROWS) if (subject.arm or subject.name) == _CONTROL else subject
            for subject in results.subjects
        ),
        comparisons=tuple(
            replace(comparison, arm=_rename_control(comparison.arm), against=_rename_control(comparison.against))
            for comparison in results.comparisons
        ),
        values=tuple(replace(value, arm=_rename_control(value.arm)) for value in results.values),
    )


def _rename_control(arm: str) -> str:
    return SAME_ROWS if arm == _CONTROL else arm
