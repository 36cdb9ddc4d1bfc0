"""Answers as a corpus: the suite, what is left out, prompts of other corpora, and that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from kdtool_data.answers import Answers
from kdtool_data.answers.prompts import Prompt, from_corpus
from kdtool_testing import CorpusConformance, make_run
from kdtool_testing.servers.chat_replies import UNUSABLE_REPLIES, chat_replies

PROMPTS = [{"prompt": f"# {number}\n", "id": number, "licence": "MIT"} for number in range(5)]
MANY = [{"prompt": f"# {number}\n", "id": number} for number in range(400)]
SHARED = {"ask": {"teachers.a": 0.8, "teachers.b": 0.2}}


class Echo(kdtool.Teacher):
    """Answers with its prompt, the last request first; some of the answers cannot be used. Keeps what it was asked.

    One that refuses for a `reason` of its server answers the first request first.
    """

    offers = frozenset({"text"})
    licence_terms = kdtool.LicenceTerms("Echo-1.0")

    def __init__(
        self,
        finish: Mapping[str, str] | None = None,
        *,
        reason: str | None = None,
        fails_at: int | None = None,
        says: str = "{}!",
        price: int = 0,
    ) -> None:
        super().__init__(self.Config())
        self.finish, self.reason, self.fails_at, self.says, self.price = finish or {}, reason, fails_at, says, price
        self.asked: list[kdtool.Request] = []

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        waiting = list(requests)
        for number, request in enumerate(waiting[::-1] if self.reason is None else waiting):
            if number == self.fails_at:
                raise kdtool.ServiceError("the server went away")
            self.asked.append(request)
            finish: Any = self.finish.get(request.id, "stop")
            reason = self.reason or "" if finish == "refused" else ""
            text = "" if finish == "refused" else self.reply(request)
            yield kdtool.TextAnswer(request.id, text, finish, 3, 4, self.price, reason=reason)

    def reply(self, request: kdtool.Request) -> str:
        return self.says.format(request.prompt)


def refusing(*numbers: int, reason: str = "400: no room") -> Echo:
    """Return a teacher that refuses some prompts."""
    return Echo({str(number): "refused" for number in numbers}, reason=reason)


class Chatty(Echo):
    """Replies as chat models do, as it is said for each prompt."""

    converses = True

    def __init__(self, replies: Mapping[str, str]) -> None:
        super().__init__()
        self.replies = replies

    def reply(self, request: kdtool.Request) -> str:
        return self.replies[request.id]


class Others(kdtool.Corpus):
    """A corpus to take prompts from."""

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        yield kdtool.Example("text", kdtool.Text("a\nb\nc\n"), language="python", licence="MIT", source="somewhere")
        yield kdtool.Example("pair", kdtool.Completion("question", "its own answer"))
        yield kdtool.Example("held out", kdtool.Text("x\n"), split="test")


def prompts(folder: Path, lines: Iterable[Mapping[str, Any]] = PROMPTS) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def answers(folder: Path, teacher: kdtool.Teacher, **options: Any) -> list[kdtool.Example]:
    return shared_answers(folder, {"teacher": teacher}, **options)


def shared_answers(
    folder: Path, teachers: Mapping[str, kdtool.Teacher], lines: Iterable[Mapping[str, Any]] = PROMPTS, **options: Any
) -> list[kdtool.Example]:
    corpus = Answers(Answers.Config.model_validate({"prompts": (Path(prompts(folder, lines)),)} | options))
    run = make_run(folder, {**teachers, "corpora.others": Others(Others.Config())}, say=print)
    return list(corpus.kdtool_examples(run))


class TestAnswers(CorpusConformance):
    component = Answers
    entry_point = "answers"
    settings: ClassVar = {"prompts": ["prompts.jsonl"]}

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"prompts": [prompts(folder)]}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Echo()}


def test_answers_come_in_the_order_of_the_prompts_and_say_where_they_are_from(tmp_path: Path) -> None:
    teacher = Echo()
    found = answers(tmp_path, teacher, max_tokens=9, stop=("\n\n",), temperature=0.5)
    assert [example.id for example in found] == ["0", "1", "2", "3", "4"]
    assert found[2].body == kdtool.Completion("# 2\n", "# 2\n!")
    assert (found[2].licence, found[2].source) == ("MIT", "answers of teacher")
    assert found[2].meta == {
        "teacher": "teacher",
        "teacher_licence": "Echo-1.0",
        "finish": "stop",
        "tokens_in": "3",
        "tokens_out": "4",
        "prompt_source": "prompts.jsonl",
    }
    assert {(r.max_tokens, r.stop, r.temperature) for r in teacher.asked} == {(9, ("\n\n",), 0.5)}
    assert len({request.seed for request in teacher.asked}) == 5


def test_what_cannot_be_learned_from_is_left_out_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    finish = {"1": "length", "3": "refused"}
    corpus = Answers(Answers.Config(prompts=(Path(prompts(tmp_path)),), max_tokens=4))
    run = make_run(tmp_path, {"teacher": Echo(finish)}, say=said.append)
    assert [example.id for example in corpus.kdtool_examples(run)] == ["0", "2", "4"]
    assert said[-1] == "3 answers of teacher; left out: 1 cut off at 4 tokens, 1 refused"
    kept = [json.loads(line) for line in next(tmp_path.glob("answers/*.jsonl")).read_text("utf-8").splitlines()]
    assert {record["id"]: record["finish"] for record in kept} == dict.fromkeys("024", "stop") | finish
    with_cut = answers(tmp_path, Echo(finish), keep_truncated=True)
    assert [example.id for example in with_cut] == ["0", "1", "2", "4"]


def test_the_account_holds_all_answers_and_counts_the_same_request_once(tmp_path: Path) -> None:
    said: list[str] = []
    twice = {**PROMPTS[0], "id": "the same"}  # is answered, and paid for once
    corpus = Answers(Answers.Config(prompts=(Path(prompts(tmp_path, [*PROMPTS, twice])),), max_tokens=4))
    run = make_run(tmp_path, {"teacher": Echo({"1": "length", "3": "refused"}, price=7)}, say=said.append)
    assert corpus.kdtool_account(run) is None
    assert len(list(corpus.kdtool_examples(run))) == 4
    assert corpus.kdtool_account(run) == {
        "requests": 5, "rows": 4, "tokens_in": 15, "tokens_out": 20, "picodollars": 35,
        "rejected": {"cut off at 4 tokens": 1, "refused": 1},
    }  # fmt: skip
    assert "for $0.0000000000350: $0.00000000000900 each" in said[-1]


def test_prompts_come_from_another_corpus_and_its_held_out_text_stays(tmp_path: Path) -> None:
    found = answers(tmp_path, Echo(), prompts=(), corpus="corpora.others", prefix_lines=2)
    assert [(example.id, example.split, example.body) for example in found] == [
        ("text", "train", kdtool.Completion("a\nb\n", "a\nb\n!")),
        ("pair", "train", kdtool.Completion("question", "question!")),
        ("held out", "test", kdtool.Text("x\n")),
    ]
    assert (found[0].language, found[0].licence, found[0].meta["prompt_source"]) == ("python", "MIT", "somewhere")
    limited = answers(tmp_path, Echo(), prompts=(), corpus="corpora.others", limit=1)
    assert [example.id for example in limited] == ["text", "held out"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_prompts_have_the_lines_of_python_s_parser(end: str) -> None:
    first = f"x = '\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'{end}"
    (prompt,) = from_corpus([kdtool.Example("text", kdtool.Text(f"{first}y = 2{end}"))], 1)
    assert isinstance(prompt, Prompt)
    assert prompt.text == first


def test_a_teacher_that_leaves_something_out_is_named(tmp_path: Path) -> None:
    class Forgetful(Echo):
        def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            yield from super().kdtool_answer(list(requests)[1:])

    with pytest.raises(kdtool.PluginError, match="returned no answer to '0'"):
        answers(tmp_path, Forgetful())


def test_prompts_are_shared_out_as_the_recipe_says(tmp_path: Path) -> None:
    teachers = {"teachers.a": Echo(), "teachers.b": Echo()}
    found = shared_answers(tmp_path, teachers, MANY, **SHARED)
    asked = {name: {request.id for request in teacher.asked} for name, teacher in teachers.items()}
    assert {example.id: example.meta["teacher"] for example in found} == {
        name: teacher for teacher, names in asked.items() for name in names
    }
    assert {example.source for example in found} == {"answers of teachers.a", "answers of teachers.b"}
    assert sum(map(len, asked.values())) == 400
    assert 280 < len(asked["teachers.a"]) < 360, "five standard deviations about 320"
    others = {"teachers.a": Echo(), "teachers.b": Echo()}
    again = shared_answers(tmp_path, others, MANY[::-1][:100], **SHARED, max_tokens=9)
    assert sum(len(teacher.asked) for teacher in others.values()) == 100
    known = {example.id: example.meta["teacher"] for example in found}
    assert all(known[example.id] == example.meta["teacher"] for example in again)


def test_a_teacher_that_refuses_all_of_the_first_requests_is_asked_no_more(tmp_path: Path) -> None:
    first, mended = refusing(*range(400)), refusing()
    message = r"teacher refuses each of the first 16 requests.*\(400: no room\); .*lower max_tokens"
    with pytest.raises(kdtool.UsageError, match=message):
        shared_answers(tmp_path, {"teacher": first}, MANY)
    assert len(first.asked) == 16
    assert len(shared_answers(tmp_path, {"teacher": mended}, MANY)) == 400, "what was refused is asked again"
    assert len(mended.asked) == 400


@pytest.mark.parametrize(
    "teacher",
    [refusing(*range(15), *range(16, 400)), refusing(*range(16, 400)), refusing(*range(16), reason="")],
    ids=["one of the first is answered", "the first are answered", "the model itself declines"],
)
def test_a_teacher_that_answers_some_is_asked_everything(
    tmp_path: Path, teacher: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    shared_answers(tmp_path, {"teacher": teacher}, MANY)
    assert len(teacher.asked) == 400
    said = f"teacher refused {len(teacher.finish):,} requests, the first with: 400: no room"
    assert (said in capsys.readouterr().out) == bool(teacher.reason)


def test_a_run_that_goes_on_asks_everything_that_was_refused_again(tmp_path: Path) -> None:
    first, still = refusing(*range(1, 400)), refusing(*range(20, 400))
    answers(tmp_path, first)
    assert len(shared_answers(tmp_path, {"teacher": still}, MANY)) == 20
    assert len(still.asked) == 399, "somebody who has answered something is asked everything"


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (refusing(*range(5)), r"\(5 refused, the first with: 400: no room\); fix that at its server"),
        (Echo(dict.fromkeys("01234", "length")), r"\(5 cut off at 512 tokens\); raise max_tokens, or set keep_trun"),
        (Echo(says=" "), r"\(5 empty\); look at how the prompts end, and at `stop`"),
    ],
)
def test_nothing_to_learn_from_is_an_error_whose_remedy_follows_the_reason(
    tmp_path: Path, teacher: kdtool.Teacher, message: str
) -> None:
    with pytest.raises(kdtool.UsageError, match="returned no usable answer " + message):
        answers(tmp_path, teacher)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"prompts\.jsonl:2: Invalid JSON"),
        ('{"text": "a"}', r"prompts\.jsonl:2: prompt: Field required"),
        ('{"prompt": "a", "id": "first"}', r"prompts\.jsonl:2: the id 'first' was given before"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own" / "prompts.jsonl"
    path.parent.mkdir()
    path.write_text('{"prompt": "a", "id": "first"}\n' + line, encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=message):
        answers(tmp_path, Echo(), prompts=(path,))


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "a"}\n')
        file.truncate(2**30)  # a sparse file, which takes no space
    with pytest.raises(kdtool.UsageError, match=r"long\.jsonl:2: the line is longer than 4 MiB"):
        answers(tmp_path, Echo(), prompts=(path,))


def test_conversations_are_refused(tmp_path: Path) -> None:
    class Talks(kdtool.Corpus):
        def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
            yield kdtool.Example("talk", kdtool.Messages((("user", "hello"),)))

    run = make_run(tmp_path, {"teacher": Echo(), "corpus": Talks(Talks.Config())})
    with pytest.raises(kdtool.UsageError, match="'talk' is a conversation"):
        list(Answers(Answers.Config(corpus="corpus")).kdtool_examples(run))


@pytest.mark.parametrize(
    "wrong", [{}, {"prompts": ["a"], "corpus": "b"}, {"prompts": ["a/x", "b/x"]}, {"prompts": ["a"], "stop": [""]}]
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Answers.Config.model_validate_json(json.dumps(wrong), strict=True)


def test_it_says_what_it_takes_of_whom() -> None:
    assert Answers(Answers.Config(prompts=(Path("a"),), ask="teachers.big")).derives_from == {"teachers.big": "text"}
    assert set(Answers(Answers.Config(corpus="corpora.b")).derives_from) == {"teacher", "corpora.b"}
    several = Answers.Config.model_validate({"corpus": "corpora.b", **SHARED})
    assert set(Answers(several).derives_from) == {"teachers.a", "teachers.b", "corpora.b"}


def test_code_of_chat_replies_is_learned_and_replies_without_code_are_left_out(tmp_path: Path) -> None:
    prompt = 'import math\n\n\ndef area(r: float) -> float:\n    """Return the area of a circle."""\n'
    body = "    # squared\n    return math.pi * r**2\n"
    usable = chat_replies(prompt, body)
    unusable = {f"unusable {name}": reply for name, reply in UNUSABLE_REPLIES.items()}
    teacher, said = Chatty({**usable, **unusable}), list[str]()
    lines = [{"prompt": prompt, "id": name, "language": "python"} for name in teacher.replies]
    corpus = Answers(Answers.Config(prompts=(Path(prompts(tmp_path, lines)),)))
    run = make_run(tmp_path, {"teacher": teacher}, say=said.append)
    found = list(corpus.kdtool_examples(run))
    assert {example.id: example.body for example in found} == dict.fromkeys(usable, kdtool.Completion(prompt, body))
    first = teacher.asked[-1]
    assert [role for role, _ in first.turns] == ["system", "user"]
    assert prompt.rstrip() in first.turns[1][1]
    assert first.prompt == ""

    account = corpus.kdtool_account(run)
    assert account is not None
    assert account["rejected"] == {"without code that completes the prompt": len(unusable) - 1, "empty": 1}
    cut = [int(example.meta["cut_characters"]) for example in found]
    assert account["cut_characters"] == sum(cut) > 0
    assert f"; {sum(cut):,} characters around the code cut (" in said[-1]
    assert found[0].meta["form"] == "chat"
    assert found[0].meta["template"].startswith("template@")


def test_the_form_follows_the_teacher_and_the_language(tmp_path: Path) -> None:
    lines = [{"prompt": "Hello", "id": "a"}]
    teacher = Chatty({"a": "Hello, too."})
    (found,) = shared_answers(tmp_path, {"teacher": teacher}, lines)
    assert found.body == kdtool.Completion("Hello", "Hello, too.")
    assert teacher.asked[0].turns == (("user", "Hello"),)
    continuing = Echo(says="```\n{}1\n```")
    (found,) = shared_answers(tmp_path, {"teacher": continuing}, [{"prompt": "x = ", "language": "python"}])
    assert found.body == kdtool.Completion("x = ", "```\nx = 1\n```")


def test_code_in_other_languages_is_taken_from_a_fence(tmp_path: Path) -> None:
    prompt = "function add(a, b) {\n"
    lines = [{"prompt": prompt, "id": name, "language": "javascript"} for name in "ab"]
    teacher = Chatty({"a": f"Here:\n```js\n{prompt}  return a + b;\n}}\n```", "b": "return a + b;"})
    (found,) = shared_answers(tmp_path, {"teacher": teacher}, lines)
    assert found.body == kdtool.Completion(prompt, "  return a + b;\n}\n")
