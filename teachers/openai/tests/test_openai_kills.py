"""A client that is killed: answers that arrived are stored, and only what was under way is asked again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import kdtool
from openai_servers import Call, Reply, Served, chat, serving

CONCURRENCY, REQUESTS = 8, 60
CLIENT = """
import sys
import time
from pathlib import Path

import kdtool
from kdtool._run.answers import cache_answers
from kdtool_teacher_openai import OpenAI
from kdtool_testing import make_run

url, folder, concurrency, number, pause = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]), float(sys.argv[5])
teacher = OpenAI(OpenAI.Config(url=url, model="m", concurrency=concurrency))
run = make_run(folder, {"teacher": teacher}, store=folder)
teacher.kdtool_identity(run)
requests = [kdtool.Request(f"r{place}", f"prompt {place}", 8) for place in range(number)]
with cache_answers(run, folder / "answers.sqlite", {"teacher": ""}) as asking:
    for answer in asking.component("teacher", kdtool.Teacher).kdtool_answer(requests):
        print(answer.id, answer.text, flush=True)
        time.sleep(pause)
teacher.kdtool_close()
"""


@contextmanager
def client(served: Served, folder: Path, pause: float) -> Iterator[subprocess.Popen[str]]:
    """A process that asks everything, and waits after each answer; it is killed at the end of the context."""
    words = [served.url, str(folder), str(CONCURRENCY), str(REQUESTS), str(pause)]
    with subprocess.Popen([sys.executable, "-c", CLIENT, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def stored(folder: Path) -> set[str]:
    if not (folder / "answers.sqlite").exists():
        return set()
    with closing(kdtool.open_answers(folder / "answers.sqlite", read_only=True)) as database:
        return {json.loads(text)["text"] for (text,) in database.execute("SELECT answer FROM answer")}


def prompts_of(calls: list[Call]) -> list[str]:
    return [call.body["messages"][0]["content"] for call in calls]


def wait_for(number: int, served: Served) -> None:
    end = time.monotonic() + 60
    while len(served.posts) < number:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_client_loses_no_answer_that_arrived(tmp_path: Path) -> None:
    def script(call: Call, _: int) -> Reply:
        time.sleep(0.02)
        return chat(prompts_of([call])[0])

    with serving(script) as served:
        with client(served, tmp_path, 1000) as process:
            assert process.stdout is not None
            process.stdout.readline()  # from now on no answer is taken
            end = time.monotonic() + 20
            while len(stored(tmp_path)) < CONCURRENCY and time.monotonic() < end:
                time.sleep(0.05)
        assert len(stored(tmp_path)) == len(served.posts) == CONCURRENCY, "all that arrived, not only what was taken"
        kills = 1
        for number in (20, 30, 40):
            before, asked = stored(tmp_path), len(served.posts)
            with client(served, tmp_path, 0.01):
                wait_for(number, served)
            assert before.isdisjoint(prompts_of(served.posts[asked:]))
            kills += 1
        before, asked = stored(tmp_path), len(served.posts)
        with client(served, tmp_path, 0) as process:
            answers, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert before.isdisjoint(prompts_of(served.posts[asked:]))
    assert answers.count(" prompt ") == REQUESTS
    assert stored(tmp_path) == set(prompts_of(served.posts))
    assert len(served.posts) - REQUESTS <= CONCURRENCY * kills, "what was under way at a kill"
