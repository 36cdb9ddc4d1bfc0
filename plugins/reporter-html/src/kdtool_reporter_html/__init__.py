"""The reporter `html`: one self-contained page about a run.

The engine calls `HtmlReporter` once at the end of a run. The page is made by `_page`, which asks one module a section:

- `_verdict`, `_forest`: what the comparisons show, in words and as a forest plot
- `_summary`: headline tiles and the tables of measurements
- `_tradeoffs`: quality against size and speed
- `_samples`: completions side by side; `_answers`: answers to items of benchmarks
- `_curves`: training curves and each loss's share of the gradient
- `_accounts`: money for answers, per row and per point, the break-even, and rejected candidates
- `_record`: data, costs, notes, components, how to use the student
- `_subjects`, `_numbers`, `_charts`: names of arms, formatted numbers, drawings by matplotlib

They compute plain records; only `page.html.j2` writes markup, and it escapes everything. Nothing is fetched, now or when
the page is read.
"""

from __future__ import annotations

from kdtool_reporter_html._reporter import HtmlReporter

__all__ = ["HtmlReporter"]
