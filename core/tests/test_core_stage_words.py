"""Stages in words: one place turns the name of a stage into what a person reads."""

from __future__ import annotations

import pytest
from kdtool._text.stages import stage_in_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "text"),
        ("text/warm-up", "text, phase warm-up"),
        ("students", "untrained student"),
        ("students/seed2", "untrained student, seed 2"),
        ("rows", "tokenised rows"),
        ("rows/teacher", "tokenised rows (teacher)"),
        ("signals/teachers.big", "signals of teachers.big"),
        ("phases/student-seed0-train", "training of student, seed 0"),
        ("phases/control-time-seed1-warm-up", "training of control at equal time, seed 1, phase warm-up"),
        ("phases/train", "training of student"),
        ("phases/warm-up", "training of student, phase warm-up"),
        ("phases/control-time/warm-up", "training of control at equal time, phase warm-up"),
        ("exports", "export"),
        ("scores", "measuring"),
        ("teachers/teacher-adapt", "training of a teacher (teacher-adapt)"),
        ("exports/safetensors", "export as safetensors"),
        ("scores/perplexity-teacher", "measuring perplexity of teacher"),
        ("scores/perplexity-teacher.unadapted", "measuring perplexity of teacher before its training"),
        ("scores/line-completion-teachers.big-one", "measuring line-completion of teachers.big-one"),
        (
            "scores/line-completion-teachers.big.unadapted",
            "measuring line-completion of teachers.big before its training",
        ),
        ("scores/perplexity-control-seed1", "measuring perplexity of control, seed 1"),
        ("scores/perplexity-student-seed0-gguf", "measuring perplexity of student, seed 0 (gguf)"),
        ("scores/efficiency", "measuring efficiency"),
        ("run", "run"),
    ],
)
def test_a_stage_reads_as_words(name: str, words: str) -> None:
    assert stage_in_words(name) == words
