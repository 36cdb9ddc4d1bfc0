"""Samples of the models stand side by side, as text."""

from __future__ import annotations

import dataclasses

import kdtool
import pytest
from kdtool_report.html.answers import samples
from kdtool_report.html.page import page
from kdtool_report.html.wording import Subjects

TEXTS = {
    "control-seed0": {"def f(": "self, self", "import": "\n\n"},
    "student-seed1": {"def f(": "of seed 1", "import": "of seed 1"},
    "student-seed0": {"def f(": "\n\n", "import": " os </pre><script>"},
    "teacher": {"def f(": "x):\n    return x", "import": " sys"},
    "student-gguf": {"def f(": "same", "import": "same"},
}


@pytest.fixture
def with_texts(sample: kdtool.Results) -> kdtool.Results:
    measurements = [
        kdtool.Measurement("samples.distinct-words", subject, "fraction", 0.5, 2, True, texts=texts)
        for subject, texts in TEXTS.items()
    ]
    return dataclasses.replace(sample, measurements=(*sample.measurements, *measurements))


def test_each_prompt_has_the_completions_of_the_first_seeds(with_texts: kdtool.Results) -> None:
    table = samples(with_texts, Subjects(with_texts.subjects))
    assert table.columns == (("teacher", "Teacher"), ("student", "Student"), ("control", "Control, equal tokens"))
    assert table.rows == (
        ("def f(", ("x):\n    return x", "\n\n", "self, self")),
        ("import", (" sys", " os </pre><script>", "\n\n")),
    )


def test_the_page_shows_them_as_text_and_not_as_a_score(with_texts: kdtool.Results) -> None:
    html = page(with_texts)
    assert '<th scope="row"><pre>import</pre></th>' in html
    assert "<pre> os &lt;/pre&gt;&lt;script&gt;</pre>" in html
    assert html.count("nothing but white space") == 2
    assert "Samples: distinct words against" not in html
    assert "Samples.distinct" not in html
    assert "<dt>Samples" not in html.split('<section id="results"')[0]
