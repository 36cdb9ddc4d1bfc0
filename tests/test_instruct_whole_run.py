"""Whole runs on instruction data: quotas behind real filters, a judge, pairs to prefer by, and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kdtool
import pytest

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


@pytest.fixture
def instructing(recipe: dict[str, Any], tmp_path: Path, other_teacher_folder: Path) -> dict[str, Any]:
    """A recipe whose student learns what a stand-in writes, in twelve cells behind four filters."""
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")
    own = {"use": "instruct", "ask": "teachers.writer", "rows": 60, "languages": ["python", "go"], "form": "completion"}
    recipe["corpora"] = {
        "instruct": {**own, "tasks": ["generate", "refactor"], "round": 16},
        "library": {"use": "python-source", "train_files": 1, "validation_files": 1, "test_files": 2},
    }
    recipe["filters"] = {"length": {}, "syntax": {}, "secrets": {}, "duplicates": {}}
    recipe["teachers"] = {"writer": {"use": f"{tmp_path / 'writer.py'}:Writer"}}
    recipe["rows"] = {"use": "packed", "length": 64, "maximum_tokens": 4096}
    recipe["student"] = {"use": "pretrained", "model": str(other_teacher_folder)}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 2}
    recipe["evaluators"] = {"perplexity": {"documents": 1, "characters": 200}}
    unused = {"corpus", "teacher", "signals", "control", "exporters", "trackers", "reporter"}
    return {key: value for key, value in recipe.items() if key not in unused}


def rows_of(store: Path) -> list[Any]:
    (file,) = store.glob("text/*/train.jsonl")
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [line for line in lines if "difficulty" in line.get("meta", {})]


def test_every_cell_is_full_behind_the_filters(instructing: dict[str, Any], tmp_path: Path) -> None:
    kdtool.run(instructing, store=tmp_path / "store")
    rows = rows_of(tmp_path / "store")
    cells = Counter(row["id"].rpartition("/")[0] for row in rows)
    assert len(cells) == 12
    assert set(cells.values()) == {5}
    (file,) = (tmp_path / "store").glob("text/*/instruct/*/status.json")
    status = json.loads(file.read_text("utf-8"))
    rejected = sum((Counter(cell["rejected"]) for cell in status["cells"]), Counter[str]())
    assert set(rejected) == {"syntax: python does not parse", "syntax: go does not parse"}
    asked = (tmp_path / "asked.log").read_text("utf-8").splitlines()
    assert len(asked) == 60 + sum(rejected.values())
    assert {row["meta"]["teacher_licence"] for row in rows} == {"Writer-1.0"}


DRIVER = """\
import importlib.util
import json
import sys
from pathlib import Path

from kdtool._run.answers import cache_answers
from kdtool_data.instruct import Instruct
from kdtool_data.duplicates import DuplicatesFilter
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
settings |= json.loads(sys.argv[2])
corpus = Instruct(Instruct.Config.model_validate(settings))
with cache_answers(run, folder.parent / "answers.sqlite", {"teacher": "key", "critic": "other"}) as asking:
    rows = [[row.id, repr(row.body), dict(row.meta)] for row in corpus.kdtool_examples(asking)]
Path(sys.argv[1], "rows.json").write_text(json.dumps(rows), encoding="utf-8")
"""


@pytest.mark.parametrize("settings", [{}, {"repairs": 2, "repaired": ["syntax", "judge"], "give": "pairs"}])
def test_a_generation_that_is_killed_again_and_again_asks_for_no_stored_answer(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")

    def generate(folder: str, dies_at: int) -> int:
        environment = {**os.environ, "DIE_AT": str(dies_at)}
        command = [sys.executable, "driver.py", folder, json.dumps(settings)]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    def lines_of(log: str) -> list[str]:
        return (tmp_path / log).read_text("utf-8").splitlines()

    codes = [generate("killed", dies_at) for dies_at in (15, 12, 10, 3, -1)]
    kills = codes.count(-signal.SIGKILL)
    assert codes[-1] == 0
    assert kills == len(codes) - 1
    asked, judged = lines_of("asked.log"), lines_of("judged.log")
    assert len(asked) - len(set(asked)) <= kills, "at most the one request that was under way at each kill"
    assert len(judged) == len(set(judged)), "no verdict was under way"
    assert generate("whole", -1) == 0
    for file in ("rows.json", "text/judge/*.jsonl", "text/instruct/*/rejected.jsonl"):
        (killed,), (whole,) = ((tmp_path / name).glob(file) for name in ("killed", "whole"))
        assert killed.read_text("utf-8") == whole.read_text("utf-8"), file
    rows = json.loads((tmp_path / "whole" / "rows.json").read_text("utf-8"))
    assert ("Preference" in rows[0][1]) == bool(settings)


@pytest.fixture
def preferring(instructing: dict[str, Any], tmp_path: Path, other_teacher_folder: Path) -> dict[str, Any]:
    """A recipe that learns rows which a critic kept, and then prefers the repaired answers among them."""
    own = {**instructing["corpora"].pop("instruct"), "repairs": 2, "repaired": ["syntax", "judge"]}
    critic = {"use": f"{tmp_path / 'writer.py'}:Critic"}
    instructing["teachers"] |= {
        "critic": critic,
        "reference": {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"},
    }
    instructing["filters"]["judge"] = {"ask": "teachers.critic"}
    learn = {"corpora": {"rows": own}, "losses": {"ce": {}}, "steps": 2}
    prefer = {
        "corpora": {"pairs": {**own, "give": "pairs"}},
        "rows": {"use": "pairs", "length": 1024},
        "losses": {"preference": {"teacher": "teachers.reference"}},
        "trainer": {"learning_rate": 1e-3, "log_every": 1},
        "steps": 12,
    }
    return instructing | {"signals": False, "train": {"learn": learn, "prefer": prefer}}


def test_a_student_learns_rows_that_a_judge_kept_and_prefers_repaired_answers(
    preferring: dict[str, Any], tmp_path: Path
) -> None:
    results = kdtool.run(preferring)
    texts = {stage.name: stage.path for stage in results.stages if stage.name.startswith("text")}
    learned, pairs = (
        [json.loads(line) for line in (texts[name] / "train.jsonl").read_text("utf-8").splitlines()]
        for name in ("text/learn", "text/prefer")
    )
    assert len(learned) == 60
    assert 5 < len(pairs) < 60
    for pair in pairs:
        assert {"repaired", "rejected", "repair_template", "repaired_picodollars"} <= pair["meta"].keys()
        assert pair["completion"] != pair["rejected"]
    reasons = {pair["meta"]["rejected"] for pair in pairs}
    assert {"syntax: python does not parse", "syntax: go does not parse"} <= reasons
    values = [report.terms["preference"].value for report in results.arms[0].histories["prefer"]]
    # Rows of 64 tokens repeat the end of each prompt, so the first phase learns less of the answers in its two steps.
    assert sum(values[-3:]) < 0.9 * sum(values[:3])
    for log in ("asked.log", "judged.log"):
        lines = (tmp_path / log).read_text("utf-8").splitlines()
        assert len(lines) == len(set(lines)), "the second phase finds what the first one paid for"
    (file,) = (texts["text/learn"] / "judge").glob("*.jsonl")
    verdicts = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    kept = {verdict["id"] for verdict in verdicts if not verdict["rejected"]}
    assert kept >= {row["id"] for row in learned}
    assert {verdict["rejected"] for verdict in verdicts} == {"", "correctness below 4"}


def test_a_judge_in_front_of_other_filters_is_refused(preferring: dict[str, Any]) -> None:
    preferring["filters"] = {"judge": preferring["filters"].pop("judge"), **preferring["filters"]}
    with pytest.raises(kdtool.RecipeError, match=r"filters\.judge: judge would be paid for rows that filters\.length"):
        kdtool.check(preferring)


def test_a_phase_s_own_filters_are_the_only_ones_of_its_rows(preferring: dict[str, Any]) -> None:
    preferring["train"]["prefer"] |= {"filters": {"syntax": {}}, "steps": 1}
    del preferring["train"]["learn"]
    results = kdtool.run(preferring)
    (text,) = (stage.path for stage in results.stages if stage.name == "text/prefer")
    assert not (text / "judge").exists()
    (file,) = text.glob("instruct/*/status.json")
    rejected = {reason for cell in json.loads(file.read_text("utf-8"))["cells"] for reason in cell["rejected"]}
    assert rejected == {"syntax: python does not parse", "syntax: go does not parse"}
