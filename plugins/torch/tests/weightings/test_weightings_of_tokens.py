"""Values of the weightings: plain loops in float64 that share no code, and what is refused.

Classes of code: Python against its own tokenizer, cases by hand, texts cut anywhere, conversations.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import keyword
import math
import tokenize
from pathlib import Path
from typing import Any

import kdtool
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool._contract.signals import alternatives
from kdtool_torch.weightings import (
    SYNTAX_CLASSES,
    Confidence,
    StudentEntropy,
    Syntax,
    TeacherEntropy,
    confidence_weight,
    entropy,
    entropy_weight,
    position_weight,
    probability,
    syntax_classes,
    top_k_probability,
)
from torch import Tensor

numbers = st.lists(st.floats(-8, 8), min_size=5, max_size=5)
temperatures = st.floats(0.3, 5)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


@given(numbers, temperatures)
def test_entropy_is_what_plain_loops_say(values: list[float], t: float) -> None:
    expected = sum(p * math.log(1 / p) for p in probabilities(values, t))
    assert entropy(row(values), t).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_a_certain_token_has_no_entropy() -> None:
    assert entropy(row([0.0, -math.inf, -math.inf])).item() == 0
    assert entropy(row([1e5, 0.0])).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(6, 4000, generator=torch.Generator().manual_seed(0))).to(dtype)
    torch.testing.assert_close(entropy(logits).double(), entropy(logits.double()), rtol=1e-5, atol=1e-6)
    labels = torch.zeros(6, dtype=torch.int64)
    torch.testing.assert_close(
        probability(logits, labels).double(), probability(logits.double(), labels), rtol=1e-5, atol=1e-6
    )


@given(st.lists(st.floats(0, 11), min_size=1, max_size=6), st.floats(0, 6), st.floats(0, 4))
def test_entropy_weights_are_what_plain_loops_say(entropies: list[float], threshold: float, power: float) -> None:
    expected = [h**power if h >= threshold else 0.0 for h in entropies]
    found = entropy_weight(torch.tensor(entropies, dtype=torch.float64), threshold, power)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(numbers, st.integers(0, 4), temperatures)
def test_probabilities_are_what_plain_loops_say(values: list[float], label: int, t: float) -> None:
    p, labels = probabilities(values, t), torch.tensor([label])
    assert probability(row(values), labels, "likeliest", t).item() == pytest.approx(max(p), rel=1e-9)
    assert probability(row(values), labels, "label", t).item() == pytest.approx(p[label], rel=1e-9)


@given(numbers, st.integers(0, 4), st.integers(1, 5))
def test_top_k_tokens_give_the_same_where_the_label_is_among_them(values: list[float], label: int, k: int) -> None:
    weights, ids = row(values).softmax(-1).topk(k)
    ids, labels = ids.int(), torch.tensor([label])
    exact = probability(row(values), labels, "label").item()
    assert top_k_probability(ids, weights, labels).item() == pytest.approx(max(probabilities(values)), rel=1e-9)
    found = top_k_probability(ids, weights, labels, "label").item()
    assert found == pytest.approx(exact if label in ids[0].tolist() else 0, rel=1e-9)
    assert exact - found <= weights.min().item() + 1e-12


def test_padding_of_top_k_tokens_and_labels_beyond_the_vocabulary_count_nothing() -> None:
    ids, weights = torch.tensor([[3, -1]]), torch.tensor([[0.7, 0.0]])
    assert top_k_probability(ids, weights, torch.tensor([3]), "label").item() == pytest.approx(0.7)
    assert top_k_probability(ids, weights, torch.tensor([2]), "label").item() == 0
    assert probability(torch.zeros(1, 4), torch.tensor([9]), "label").item() == 0


def test_confidence_weights_by_hand() -> None:
    p = torch.tensor([0.25, 1.0])
    assert confidence_weight(p, "sure", 1.0).tolist() == [0.25, 1.0]
    assert confidence_weight(p, "unsure", 2.0).tolist() == [0.5625, 0.0]
    assert confidence_weight(p, "unsure", 0.0).tolist() == [1.0, 1.0]


@given(st.integers(0, 10**6), st.floats(0, 100), st.integers(1, 10**4))
def test_positions_weigh_what_plain_loops_say(position: int, first: float, tokens: int) -> None:
    where = torch.tensor([position])
    line = first + (1 - first) * min(1.0, position / tokens)
    halved = 1 + (first - 1) * 0.5 ** (position / tokens)
    assert position_weight(where, first, tokens).item() == pytest.approx(line, rel=1e-4, abs=1e-4)
    found = position_weight(where, first, tokens, "exponential").item()
    assert found == pytest.approx(halved, rel=1e-4, abs=1e-4)
    assert min(first, 1) - 1e-5 <= found <= max(first, 1) + 1e-4


def chunk(teacher: Any) -> kdtool.TokenChunk:
    here = torch.zeros(1, dtype=torch.int64)
    logits = row([1.0, 2.0, 4.0]).log().float()
    return kdtool.TokenChunk(logits, here, teacher, here, 1.0, torch.tensor(0.0), torch.tensor(0))


def sparse(form: Any, temperature: float = 1.0) -> kdtool.SparseTokens:
    return kdtool.SparseTokens(torch.tensor([[0]]), torch.ones(1, 1), form, temperature)


@pytest.mark.parametrize(
    ("weighting", "form"), [(TeacherEntropy, "sampled"), (TeacherEntropy, "top-k"), (Confidence, "sampled")]
)
def test_tokens_that_say_too_little_are_not_asked_for(weighting: Any, form: str) -> None:
    assert frozenset({form}) not in alternatives(weighting.needs)


def test_tokens_taken_at_another_temperature_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"temperature 1\.0.*2\.0"):
        Confidence(Confidence.Config()).kdtool_token_weight(chunk(sparse("top-k", 2.0)))
    weighting = Confidence(Confidence.Config(temperature=2.0))
    assert weighting.kdtool_token_weight(chunk(sparse("top-k", 2.0))).item() == 1


def test_student_and_teacher_are_not_confused() -> None:
    """The student is (1, 2, 4) / 7; the teacher knows nothing, so that its entropy is log 3."""
    seen = chunk(kdtool.DenseTokens(torch.zeros(1, 3)))
    own = math.log(7) - 2 / 7 * math.log(2) - 4 / 7 * math.log(4)
    for weighting, expected in (
        (TeacherEntropy(TeacherEntropy.Config()), math.log(3)),
        (StudentEntropy(StudentEntropy.Config()), own),
        (Confidence(Confidence.Config()), 1 / 3),
    ):
        assert weighting.kdtool_token_weight(seen).item() == pytest.approx(expected)


def test_syntax_weighs_by_names_in_the_order_of_the_column() -> None:
    names = list(SYNTAX_CLASSES)
    set_to = {name: float(number) for number, name in enumerate(names)}
    weighting = Syntax(Syntax.Config.model_validate(set_to))
    seen = dataclasses.replace(chunk(None), columns={"syntax": torch.arange(len(names))})
    assert weighting.kdtool_token_weight(seen).tolist() == list(range(len(names)))


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="all classes have the weight 0"):
        Syntax.Config.model_validate(dict.fromkeys(SYNTAX_CLASSES, 0.0))


LETTERS = dict(zip(SYNTAX_CLASSES, "_ #'1+(kn", strict=True))
CODE = 'def f(x):\n    """What it does."""\n    return f"{x!r}\\n" + 0x1F * x  # a comment\n'


def drawn(text: str, language: str = "python") -> str:
    """The class of each character as a letter, so that it can be read."""
    return "".join(LETTERS[SYNTAX_CLASSES[number]] for number in syntax_classes(text, language))


@pytest.mark.parametrize(
    ("language", "text", "classes"),
    [
        ("python", "if x not in (1, 0x1f):  # hm", "kk n kkk kk (1( 1111((  ####"),
        ("python", 'a = "é漢" + None', "n + '''' + kkkk"),
        ("python", "@dec\nclass A: pass", "nnnn kkkkk n( kkkk"),
        ("python", 'def f():\n  """doc"""\n', "kkk n(((   ######### "),
        ("Python", "x.y += 1", "n+n ++ 1"),
        ("c++", "int a = 1; // c\n", "kkk n + 1( #####"),
        ("c", "#define X 1\n", "kkkkkkkkkkkk"),
        ("rust", 'let s = "a"; /* b */', "kkk n + '''( #######"),
        ("no language", "if x: pass", "__________"),
        ("", "if x: pass", "__________"),
    ],
)
def test_classes_by_hand(language: str, text: str, classes: str) -> None:
    assert drawn(text, language) == classes


def test_python_is_read_as_python_reads_it() -> None:
    """Comments, numbers, keywords and names of a real file are what the standard library's tokenizer says they are."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    found = drawn(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    expected = {tokenize.COMMENT: "#", tokenize.NUMBER: "1", tokenize.NAME: "n"}
    told = wrong = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in expected:
            letter = "k" if keyword.iskeyword(token.string) else expected[token.type]
            start = starts[token.start[0] - 1] + token.start[1]
            told += 1
            wrong += found[start : start + len(token.string)] != letter * len(token.string)
    assert told > 5000
    assert wrong <= told / 1000


@given(st.text(), st.sampled_from(["python", "c++", "rust", "html", "php", "bash", "json", "javascript", "go", "x"]))
def test_any_text_has_a_class_for_each_character(text: str, language: str) -> None:
    found = syntax_classes(text, language)
    assert len(found) == len(text)
    assert set(found) <= set(range(len(SYNTAX_CLASSES)))


def test_a_text_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = drawn(CODE).replace("#", "'")  # a documentation string is known as one when it is closed
    for end in range(len(CODE)):
        cut = drawn(CODE[:end]).replace("#", "'")
        agreeing = sum(a == b for a, b in zip(cut, whole, strict=False))
        assert agreeing >= end - 6, (CODE[:end], cut)  # a word that is cut, or quotes that are not closed, at the end
    assert drawn('x = 1\n"""what is not clo')[6:] == "'" * 18


def annotated(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str = "", own: str = "") -> str:
    weighting = Syntax(Syntax.Config(language=own))
    (found,) = weighting.kdtool_annotate(kdtool.Example("a", body, language=language)).values()
    return "".join(LETTERS[SYNTAX_CLASSES[number]] for number in found)


def test_the_example_s_language_comes_before_the_setting() -> None:
    text = kdtool.Text("let x = 1;")
    assert annotated(text) == "_" * 10
    assert annotated(text, own="rust") == "kkk n + 1("
    assert annotated(text, language="rust", own="python") == "kkk n + 1("
    assert annotated(text, language="klingon", own="rust") == "_" * 10, "it is another language, not none"


def test_a_completion_goes_on_where_its_prompt_ends() -> None:
    assert annotated(kdtool.Completion('x = "a', ' if b" + 1'), "python") == "n + ''" + "'''''' + 1"


def test_of_a_conversation_code_in_fences_alone_is_read() -> None:
    answer = "for it:\n```python\nfor x\n```\nand if\n```\nlet y\n```\n"
    talk = kdtool.Messages((("user", "is it?"), ("assistant", answer), ("assistant", "```rust\nlet z")))
    # the question, then both answers, each with its code between the fences
    expected = "______" + "_" * 18 + "kkk n " + "_" * 15 + "kkk n " + "____" + "_" * 8 + "kkk n"
    assert annotated(talk, "rust") == expected


def test_a_language_that_nobody_knows_is_refused_as_a_setting() -> None:
    with pytest.raises(pydantic.ValidationError, match="unknown language 'pythn'"):
        Syntax.Config(language="pythn")
