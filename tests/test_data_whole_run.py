"""Whole runs on data of every kind: mixed forms, conversations, leaked benchmarks, licences, verified and generated rows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdtool_evaluator_humaneval import HumanEval
from kdtool_testing import make_run
from kdtool_testing.sandbox import sandbox_is_there
from kdtool_transformers import open_tokenizer
from whole_runs import lines, path_of, rows_of, values, without

in_a_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
LLAMA = "Llama 3.2 Community License"
UNUSED = ("corpus", "teacher", "signals", "control", "exporters", "trackers", "reporter")
"""Parts of the small recipe that students of generated rows do without."""


def write_lines(name: str, objects: list[dict[str, Any]]) -> str:
    """Write a JSONL file."""
    Path(name).write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return name


def test_every_form_is_packed_and_learned(recipe: dict[str, Any], marked_teacher_folder: Path) -> None:
    answers = [f"the sum is {number}" for number in range(30)]
    talks = [
        [{"role": "user", "content": f"add {i}"}, {"role": "assistant", "content": a}] for i, a in enumerate(answers)
    ]
    code = [{"content": f"def gap_{i}(x):\n    return x + {i}\n", "license": "mit"} for i in range(300)]
    pq.write_table(pa.Table.from_pylist(code), "code.parquet")
    problems = [
        {
            "task_id": 600 + i,
            "text": f"Add {i}.",
            "code": f"def add(x):\n    return x + {i}",
            "test_list": ["assert add"],
        }
        for i in range(1, 90)
    ]
    hub = {"use": "hub", "files": ["code.parquet"], "text_column": "content", "licence_column": "license"}
    source = {"use": "python-source", "forms": ["implement", "explain"], "train_files": 6, "validation_files": 1}
    results = kdtool.run(
        {
            **without(recipe, "control", "evaluators", "corpus", "signals"),
            "corpora": {
                "talks": {
                    "use": "jsonl", "files": [write_lines("talks.jsonl", [{"messages": talk} for talk in talks])],
                    "share": 0.1,
                },
                "code": {**hub, "share": 0.4},
                "problems": {"use": "mbpp", "file": write_lines("mbpp.jsonl", problems), "share": 0.2},
                "source": {**source, "test_files": 1, "share": 0.3},
            },
            "rows": {"use": "packed", "length": 128, "fim": {"rate": 0.7}},
            "teacher": {"use": "causal-lm", "model": str(marked_teacher_folder), "dtype": "float32"},
            "train": {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 3},
        }
    )  # fmt: skip
    corpora = {name.removeprefix("corpora."): own for name, own in results.data["corpora"].items()}
    shares = {name: round(own["share_of_training"], 1) for name, own in corpora.items()}
    assert shares == {"talks": 0.1, "code": 0.4, "problems": 0.2, "source": 0.3}
    assert corpora["code"]["licences"] == {"mit": corpora["code"]["documents"]}
    assert any(own["left_out_documents"] for own in corpora.values())
    assert results.report is not None
    assert "Share of training" in results.report.read_text(encoding="utf-8")

    tokenizer = open_tokenizer(marked_teacher_folder)
    end, start, prefix = (tokenizer.encode_template(mark)[0] for mark in ("<|im_end|>", "<|im_start|>", "<fim_prefix>"))
    rows = rows_of(results)
    ids, learned = ([token for row in rows for token in row.input_ids], [of for row in rows for of in row.labelled])
    role = tokenizer.encode("assistant\n")
    found = []
    for place, token in enumerate(ids):
        if token == start and ids[place + 1 : place + 1 + len(role)] == role:
            begin = place + 1 + len(role)
            stop = ids.index(end, begin)
            assert not any(learned[place:begin])
            assert all(learned[begin : stop + 1])
            assert not learned[stop + 1]
            found.append(tokenizer.decode(ids[begin:stop]))
    assert 5 < len(found) == corpora["talks"]["documents"]
    assert set(found) <= set(answers)
    assert 0.5 < ids.count(prefix) / corpora["code"]["documents"] < 0.9


def test_another_template_is_refused_unless_conversations_are_plain(
    recipe: dict[str, Any], marked_teacher_folder: Path
) -> None:
    folder = Path(shutil.copytree(marked_teacher_folder, "student"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|im_end|>\n", "<|im_end|>"), "utf-8")
    turns = [[{"role": "user", "content": f"x{n} ="}, {"role": "assistant", "content": f"{n}"}] for n in range(40)]
    recipe |= {
        "corpus": {"use": "jsonl", "files": [write_lines("talks.jsonl", [{"messages": talk} for talk in turns])]},
        "student": {"use": "pretrained", "model": str(folder)},
        "train": {"losses": {"forward-kl": {}}, "steps": 1},
    }
    recipe["teacher"]["model"] = str(marked_teacher_folder)
    talking = without(recipe, "control", "exporters", "evaluators", "signals")
    with pytest.raises(kdtool.UsageError, match=r"other tokens in the chat template of teacher .*conversations: plain"):
        kdtool.run(talking)
    assert not list(Path("store").glob("phases/*"))
    assert kdtool.run(talking, {"rows.conversations": "plain"}).folder.is_dir()


def test_terms_are_asked_about_recorded_and_go_on(recipe: dict[str, Any], teacher_folder: Path) -> None:
    recipe["teacher"]["model"] = shutil.copytree(teacher_folder, "licensed")
    Path("licensed", "README.md").write_text("---\nlicense: llama3.2\n---\n", encoding="utf-8")
    recipe["train"] = {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 1}
    licensed = without(recipe, "control", "evaluators", "signals")
    with pytest.raises(kdtool.RecipeError) as refused:
        kdtool.run(licensed)
    assert f'terms_acknowledged: {{teacher: "{LLAMA}"}}' in str(refused.value)
    assert not Path("runs", "small").exists()

    results = kdtool.run({**licensed, "terms_acknowledged": {"teacher": LLAMA}})
    found = {each.component: each for each in results.licences}
    assert found["teacher"].transfers == ("signals", "weights")
    assert (found["teacher"].acknowledged, found["teacher"].forbidden) == (LLAMA, ())
    assert found["corpus"].transfers == ("text",)
    recorded = json.loads((results.folder / "results.json").read_text(encoding="utf-8"))["licences"]
    assert {entry["component"]: entry["acknowledged"] for entry in recorded} == {"corpus": "", "teacher": LLAMA}
    report = (results.folder / "report.html").read_text(encoding="utf-8")
    assert f"acknowledged: {LLAMA}" in report
    assert "signals, weights" in report
    (artifact,) = results.arms[0].artifacts
    card = (artifact.path / "README.md").read_text(encoding="utf-8")
    assert "# Llama-small\n" in card
    assert "> Built with Llama\n" in card
    assert "Copyright © Meta Platforms" in (artifact.path / "NOTICE").read_text(encoding="utf-8")

    # who trains on from the exported student is asked about the same terms
    further = {**licensed, "student": {"use": "pretrained", "model": str(artifact.path)}, "name": "further"}
    further["train"] = {"losses": {"ce": {}}, "steps": 1}
    with pytest.raises(kdtool.RecipeError) as again:
        kdtool.check(without(further, "teacher"))
    assert f'terms_acknowledged: {{student: "Python-2.0 AND {LLAMA}"}}' in str(again.value)


COPIED = "HumanEval/10"


@pytest.mark.slow
@in_a_sandbox
def test_a_leaked_solution_is_reported_and_then_removed(
    recipe: dict[str, Any], teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody wrote a program around a solution of HumanEval; the teacher's context holds a prompt of it."""
    roomy = Path(shutil.copytree(teacher_folder, tmp_path / "roomy"))
    config = json.loads((roomy / "config.json").read_text(encoding="utf-8"))
    (roomy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}), encoding="utf-8")
    problems = HumanEval(HumanEval.Config()).kdtool_problems(make_run(tmp_path))
    (problem,) = [problem for problem in problems if problem.id == COPIED]
    area = "".join(f"def area_{i}(width, height):\n    return {i} * width * height\n\n\n" for i in range(8))
    program = f"import sys\n\n\n{''.join(kdtool.parts_of(problem.body))}\n\nprint(make_palindrome(sys.argv[1]))\n"
    texts = [{"id": name, "text": text} for name, text in {"area": area, "program": program}.items()]
    leaking = {"use": "jsonl", "files": [write_lines("leaking.jsonl", texts)]}
    recipe["corpora"] = {"leaking": leaking, "library": recipe.pop("corpus")}
    recipe["evaluators"] = {
        "humaneval": {"limit": 1, "maximum_tokens": 4},
        "contamination": {},
        "memorisation": {"limit": 6, "prefix": 8, "continuation": 4, "n": 3, "characters": 5000},
    }
    recipe["teacher"]["model"] = str(roomy)
    recipe["control"] = {"match": ["tokens"]}

    def trained_text(results: kdtool.Results) -> str:
        tokenizer = open_tokenizer(teacher_folder)
        return "".join(tokenizer.decode(list(row.input_ids)) for row in rows_of(results))

    leaked = kdtool.run(recipe)
    own = dict.fromkeys(("student", "control", "student-safetensors"), 1 / 164)
    assert values(leaked, "contamination.humaneval") == pytest.approx(own)
    told = "1 of 164 problems of humaneval found in the training text, by words or code, in 1 of 10 documents"
    assert f"{told}: {COPIED}" in capsys.readouterr().err
    assert "contamination" not in leaked.verdict, "it tells nothing of one model against another"
    assert "make_palindrome" in trained_text(leaked)
    assert "Contamination: humaneval" in (leaked.folder / "report.html").read_text(encoding="utf-8")
    for name in ("memorised", "longest-copy"):
        assert values(leaked, name).keys() == {"teacher", "student", "control", "student-safetensors"}

    Path("leaking.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    foreign = kdtool.evaluate([f"foreign={roomy}"], recipe="leaking.yaml")
    assert values(foreign, "memorised").keys() == {"teacher", "foreign"}
    assert not values(foreign, "contamination.humaneval"), "nobody looked into its text"
    assert any("contamination: foreign" in note for note in foreign.notes)

    cleaning = {**recipe, "filters": {"decontamination": {}}, "name": "cleaned"}
    cleaned = kdtool.run(cleaning)
    assert set(values(cleaned, "contamination.humaneval").values()) == {0.0}
    text = trained_text(cleaned)
    assert "make_palindrome" not in text
    assert "area_7" in text
    reason = {"10 words of humaneval": 1}
    assert cleaned.data["rejected"] == {"filters.decontamination": reason}
    rejected = {name: own.get("rejected") for name, own in cleaned.data["corpora"].items()}
    assert rejected == {"corpora.leaking": reason, "corpora.library": None}
    assert "10 words of humaneval" in (cleaned.folder / "report.html").read_text(encoding="utf-8")

    planned = kdtool.plan(cleaning, {"evaluators.humaneval.maximum_tokens": 5})
    assert {stage.name: stage.action for stage in planned}["text"] == "reuse"


ADDER = '''\
import kdtool


class Adder(kdtool.Teacher):
    """Adds or takes away what is asked for, in turns, and never knows how to add 3."""

    offers = frozenset({"text"})
    licence_terms = kdtool.LicenceTerms("Adder-1.0")

    def kdtool_answer(self, requests):
        for request in requests:
            number = int(request.prompt.partition("assert add")[2].partition("(")[0])
            right = int(request.id.partition("#")[2]) % 2 and number % 10 != 3
            text = f"def add{number}(x):\\n    return x {'+' if right else '-'} {number}\\n"
            yield kdtool.TextAnswer(request.id, text, "stop", 9, 9)
'''


@in_a_sandbox
def test_what_passed_is_learned_and_then_preferred_and_what_is_held_out_is_not_asked(
    recipe: dict[str, Any], other_teacher_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("adder.py").write_text(ADDER, encoding="utf-8")
    problems = [
        {
            "task_id": number,
            "text": f"Write a function to add {number}.",
            "code": f"def add{number}(x):\n    return {number} + x",
            "test_list": [f"assert add{number}(1) == {number + 1}", f"assert add{number}(0) == {number}"],
        }
        for number in (11, 12, 511, *range(601, 613))
    ]
    own = {"use": "verified", "ask": "teachers.adder", "corpus": "corpora.problems", "samples": 2}
    before = {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"}
    recipe |= {
        "corpora": {"problems": {"use": "mbpp", "file": write_lines("mbpp.jsonl", problems)}, "verified": own},
        "teachers": {"adder": {"use": "./adder.py:Adder"}, "before": before},
        "rows": {"use": "packed", "length": 64},
        "student": {"use": "pretrained", "model": str(other_teacher_folder)},
        "train": {"losses": {"ce": {}}, "steps": 4},
        "evaluators": {"perplexity": {"limit": 2, "characters": 200}},
    }
    verifying = without(recipe, *UNUSED)
    results = kdtool.run(without(verifying, "teachers") | {"teachers": {"adder": recipe["teachers"]["adder"]}})
    passed = "11 of 24 answers of teachers.adder passed, to 11 of 12 problems (others: 13 AssertionError)"
    assert passed in "".join(capfd.readouterr())
    text = path_of(results, "text")
    found = {line["id"]: line for line in lines(text / "train.jsonl")}
    assert set(found) == {f"mbpp/{number}#1" for number in range(601, 613)} - {"mbpp/603#1"}
    assert found["mbpp/601#1"]["completion"] == "def add601(x):\n    return x + 601\n"
    assert found["mbpp/601#1"]["meta"]["teacher_licence"] == "Adder-1.0"
    assert {line["id"] for line in lines(text / "test.jsonl")} == {"mbpp/11", "mbpp/12"}
    assert {(each.component, each.terms.licence, each.transfers) for each in results.licences} >= {
        ("corpora.problems", "CC-BY-4.0", ("text",)),
        ("teachers.adder", "Adder-1.0", ("text",)),
    }
    (answers,) = text.glob("verified/*.answers.jsonl")
    assert {line["id"][:6] for line in lines(answers)} == {"mbpp/6"}

    pairs = {
        "signals": False,
        "rows": {"use": "pairs", "length": 256},
        "train": {
            "losses": {"preference": {"teacher": "before"}},
            "steps": 12,
            "trainer": {"learning_rate": 1e-3, "log_every": 1},
        },
    }
    preferred = kdtool.run({**verifying, **pairs}, {"corpora.verified.give": "pairs"})
    written = lines(path_of(preferred, "text") / "train.jsonl")
    assert len(written) == 11
    assert all("+" in line["completion"] and "-" in line["rejected"] for line in written)
    terms = [report.terms["preference"].value for report in preferred.arms[0].histories["train"]]
    assert terms[0] == pytest.approx(0.6931, abs=1e-3), "the student is the reference still"
    assert sum(terms[-3:]) < 0.8 * sum(terms[:3])


WRITER = '''\
import os
import random
import signal

import kdtool

CODE = {
    "python": "def f{0}(x):\\n    return x + {0}\\n",
    "go": "package a\\n\\nfunc f{0}(x int) int {{ return x + {0} }}\\n",
}


class Writer(kdtool.Teacher):
    """Fails in one of five answers, repairs them, logs what it is asked, and dies after as many as the environment says."""

    offers = frozenset({"text"})
    licence_terms = kdtool.LicenceTerms("Writer-1.0")

    def kdtool_answer(self, requests):
        for number, request in enumerate(requests):
            with open("asked.log", "a", encoding="utf-8") as log:
                log.write(repr(request.turns) + "\\n")
            if number == int(os.environ.get("DIE_AT", -1)):
                os.kill(os.getpid(), signal.SIGKILL)
            language = request.turns[0][1].partition("begin with ```")[2].partition(".")[0]
            drawn = random.Random(repr(request.turns[:2]))
            words = " ".join(f"word{drawn.randrange(10**6)}" for _ in range(30))
            code = CODE[language].format(drawn.randrange(10**6))
            code = code.replace(")", "", 1) if drawn.random() < 0.2 and len(request.turns) == 2 else code
            text = f"<instruction>{words}</instruction><response>\\n```{language}\\n{code}```\\n{words}</response>"
            yield kdtool.TextAnswer(request.id, text, "stop", 9, 9, 10**9)


class Critic(kdtool.Teacher):
    """Rejects one of ten; logs what it is asked, batch by batch."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests):
        requests = list(requests)
        with open("judged.log", "a", encoding="utf-8") as log:
            log.writelines(repr(request.turns) + "\\n" for request in requests)
        for request in requests:
            score = 2 if random.Random(repr(request.turns)).random() < 0.1 else 5
            text = f"<verdict>\\ncorrectness: {score}\\nclarity: 5\\nreason: So it is.\\n</verdict>"
            yield kdtool.TextAnswer(request.id, text, "stop", 3, 3, 10**8)
'''


DRIVER = """\
import importlib.util
import sys
from pathlib import Path

from kdtool._run.answers import cache_answers
from kdtool_data.duplicates import DuplicatesFilter
from kdtool_data.instruct import Instruct
from kdtool_data.judge import JudgeFilter
from kdtool_data.syntax import SyntaxFilter
from kdtool_testing import make_run

spec = importlib.util.spec_from_file_location("writer", "writer.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)
folder = Path(sys.argv[1]) / "text"
folder.mkdir(parents=True, exist_ok=True)
parts = {"teacher": writer.Writer, "critic": writer.Critic}
parts |= {"filters.syntax": SyntaxFilter, "filters.duplicates": DuplicatesFilter, "filters.judge": JudgeFilter}
given = {"filters.judge": {"ask": "critic"}}
run = make_run(folder, {name: one(one.Config(**given.get(name, {}))) for name, one in parts.items()})
settings = {"rows": 60, "languages": ("python", "go"), "tasks": ("generate", "refactor"), "round": 16}
settings |= {"repairs": 2, "repaired": ("syntax", "judge"), "give": "pairs"}
corpus = Instruct(Instruct.Config.model_validate(settings))
with cache_answers(run, folder.parent / "answers.sqlite", {"teacher": "key", "critic": "other"}) as asking:
    rows = [repr(row) for row in corpus.kdtool_examples(asking)]
Path(sys.argv[1], "rows.txt").write_text("\\n".join(rows), encoding="utf-8")
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_generation_that_is_killed_again_and_again_asks_for_no_stored_answer(tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")

    def generate(folder: str, dies_at: int) -> int:
        environment, command = {**os.environ, "DIE_AT": str(dies_at)}, [sys.executable, "-c", DRIVER, folder]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    codes = [generate("killed", dies_at) for dies_at in (15, 12, 10, 3, -1)]
    kills = codes.count(-signal.SIGKILL)
    assert (codes[-1], kills) == (0, len(codes) - 1)
    asked, judged = (Path(log).read_text("utf-8").splitlines() for log in ("asked.log", "judged.log"))
    assert len(asked) - len(set(asked)) <= kills, "at most the one request that was under way at each kill"
    assert len(judged) == len(set(judged)), "no verdict was under way"
    assert generate("whole", -1) == 0
    for file in ("rows.txt", "text/judge/*.jsonl", "text/instruct/*/rejected.jsonl"):
        (killed,), (whole,) = ((tmp_path / name).glob(file) for name in ("killed", "whole"))
        assert killed.read_text("utf-8") == whole.read_text("utf-8"), file
    assert "Preference" in (tmp_path / "whole" / "rows.txt").read_text("utf-8")
