"""Assemble the sections and render the page."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import jinja2
import kdtool
from markupsafe import Markup

from kdtool_reporter_html import (
    _accounts,
    _answers,
    _curves,
    _exports,
    _forest,
    _record,
    _samples,
    _summary,
    _tradeoffs,
    _verdict,
)
from kdtool_reporter_html._control import as_it_trained
from kdtool_reporter_html._subjects import REFERENCE, Subjects

__all__ = ["page"]


def page(results: kdtool.Results, dollars_per_hour: Decimal | None = None) -> str:
    """Return the whole page. Missing parts of a run are omitted, or named as missing.

    Args:
        results: the run.
        dollars_per_hour: the price of the machine that trained; None leaves training without a price.
    """
    results = as_it_trained(results)
    units = {measurement.name: measurement.unit for measurement in results.measurements}
    higher = {measurement.name: measurement.higher_is_better for measurement in results.measurements}
    subjects = Subjects(results.subjects, results.values)
    seeds = _summary.seeds_of(results, subjects)
    against_controls = _verdict.with_controls(results.comparisons, subjects)
    with_reference = [each for each in results.comparisons if (each.arm, each.against) == ("student", REFERENCE)]
    judged = _verdict.judgements(against_controls)
    controlled = any(arm.arm.startswith("control") for arm in results.arms)
    money = _accounts.money_of(results, subjects, dollars_per_hour)
    scored = [measurement for measurement in results.measurements if not measurement.texts]
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
        pays=(
            _verdict.where_it_pays(judged, seeds, controlled=controlled) if results.arms or judged else results.verdict
        ),
        gained=_verdict.gain_over_base(results.comparisons, units),
        referred=_verdict.against_reference(with_reference),
        weakness=_verdict.weakness(subjects.gather(results.measurements)),
        tiles=_summary.tiles(results, subjects, money),
        quality=_summary.quality(results, subjects),
        seeds=seeds,
        pairs=_verdict.pairs(results.comparisons, units, subjects),
        forest=_forest.forest([*against_controls, *with_reference], units, higher),
        samples=_samples.samples(results, subjects),
        exports=_exports.exports(results, subjects),
        answers=_answers.answers(results, subjects),
        phases=_curves.phases(results.arms),
        sizes=_summary.costs(results, subjects),
        tradeoffs=_tradeoffs.tradeoffs(scored, subjects),
        per_parameter=_tradeoffs.per_parameter(scored, subjects),
        models=_record.models(results.models),
        data=_record.blocks(results.data),
        rejections=_accounts.rejections(results.data),
        costs=_record.costs(results),
        money=money,
        notes=_record.notes(results),
        commands=_record.commands(results.name),
        usage=_record.usage(results, _samples.best_prompt(results, subjects)),
        config_text=_record.config_text,
        resolved=json.dumps(dict(results.recipe), indent=2, ensure_ascii=False, default=str) if results.recipe else "",
        style=_own_file(folder / "page.css"),
        script=_own_file(folder / "page.js"),
    )


def _own_file(path: Path) -> Markup:
    """Read a file of this package, to be inserted unescaped."""
    return Markup(path.read_text(encoding="utf-8"))  # noqa: S704 - nothing of a run is in it
