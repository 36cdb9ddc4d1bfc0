"""Samples stand side by side, and the lines that use the student start with a prompt that it continues."""

from __future__ import annotations

import dataclasses

import kdtool
import pytest
from kdtool_report.html.answers import best_prompt, samples
from kdtool_report.html.page import page
from kdtool_report.html.record import usage
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


def test_an_export_that_writes_something_else_than_the_student_is_named(with_texts: kdtool.Results) -> None:
    subject = kdtool.Subject("student-gguf", "artifact", None, 0, arm="student-gguf")
    others = [known for known in with_texts.subjects if known.name != subject.name]
    results = dataclasses.replace(with_texts, subjects=(*others, subject))
    sentence = "Exported: gguf completes 2 of 2 prompts differently from the student"
    assert sentence in page(results)
    own = {m.subject: m for m in results.measurements if m.texts}["student-seed0"]
    same = [dataclasses.replace(m, texts=own.texts) if m.subject == subject.name else m for m in results.measurements]
    assert "differently from the student" not in page(dataclasses.replace(results, measurements=tuple(same)))


def test_the_page_shows_them_as_text_and_not_as_a_score(with_texts: kdtool.Results) -> None:
    html = page(with_texts)
    assert '<th scope="row"><pre>import</pre></th>' in html
    assert "<pre> os &lt;/pre&gt;&lt;script&gt;</pre>" in html
    assert html.count("nothing but white space") == 2
    assert "Samples: distinct words against" not in html
    assert "Samples.distinct" not in html
    assert "<dt>Samples" not in html.split('<section id="results"')[0]


def test_the_lines_to_copy_use_a_prompt_that_the_student_continues(with_texts: kdtool.Results) -> None:
    assert best_prompt(with_texts, Subjects(with_texts.subjects)) == "import"
    (used,) = usage(with_texts, 'say "hi"\n')
    assert 'inputs = tokenizer("say \\"hi\\"\\n", return_tensors="pt")' in used.lines
    (plain,) = usage(with_texts, "")
    assert "fibonacci" in plain.lines
    assert "tokenizer(&#34;import&#34;" in page(with_texts)


def test_without_words_or_samples_no_prompt_is_better(sample: kdtool.Results) -> None:
    subjects = Subjects(sample.subjects)
    assert best_prompt(sample, subjects) == ""
    silent = kdtool.Measurement("samples.distinct-words", "student-seed0", "fraction", 0, 1, True, texts={"a": "\n"})
    assert best_prompt(dataclasses.replace(sample, measurements=(silent,)), subjects) == ""
