"""Queue, slots, loading and unloading of models, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import kdtool
import psutil
import pytest
from kdtool_serve import Limits
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime


def _ask(server: Running, count: int, **body: object) -> list[httpx.Response]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: server.post("/v1/completions", prompt="x", **body), range(count)))


def test_a_model_loads_once_and_generates_no_more_answers_at_once_than_it_can() -> None:
    student = StreamingRuntime(streams=3, seconds=0.01)
    models = ScriptedModels({"student": student})
    with running(models) as server:
        assert models.opened == []
        assert {response.status_code for response in _ask(server, 12)} == {200}
    assert models.opened == ["student"]
    assert student.most_open == 3


def test_a_request_beyond_the_queue_gets_429_and_the_time_to_wait() -> None:
    student = StreamingRuntime(streams=1, seconds=0.1)
    with running(ScriptedModels({"student": student}), limits=Limits(queue=2)) as server:
        found = _ask(server, 8)
        assert sorted(response.status_code for response in found) == [200] * 3 + [429] * 5
        refused = next(response for response in found if response.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.post("/v1/completions", prompt="x").status_code == 200, "and then there is room again"
        never = server.post("/v1/completions", prompt="x", n=4)
        assert (never.status_code, never.json()["error"]["param"]) == (400, "n")
        assert 'kdtool_responses_total{path="/v1/completions",status="429"} 5.0' in server.get("/metrics").text


def test_an_answer_that_takes_too_long_ends_with_an_error() -> None:
    student = StreamingRuntime(lambda _: "word " * 500, seconds=0.05)
    with running(ScriptedModels({"student": student}), limits=Limits(timeout=0.4)) as server:
        late = server.post("/v1/completions", prompt="x", max_tokens=500)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        streamed = server.post("/v1/completions", prompt="x", max_tokens=500, stream=True).text.strip().split("\n\n")
        assert '"code":"timeout"' in streamed[-2]
        assert streamed[-1] == "data: [DONE]"
        time.sleep(0.2)
        assert not student.open


def test_a_model_that_the_memory_does_not_hold_is_refused_and_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ScriptedModels({"student": StreamingRuntime(), "teacher": StreamingRuntime()})
    (tmp_path / "model.safetensors").write_bytes(bytes(5_000_000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000))
    models.subjects["teacher"] = kdtool.Subject("teacher", "teacher", tmp_path)
    with running(models) as server:
        refused = server.post("/v1/completions", prompt="x", model="teacher")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "insufficient_memory")
        assert "teacher has weights of 0.005 GB, and 0.002 GB are free" in refused.json()["error"]["message"]
        assert server.post("/v1/completions", prompt="x").status_code == 200


def test_a_model_that_cannot_be_opened_is_refused_and_tried_again() -> None:
    models = ScriptedModels({"student": kdtool.UsageError("no installed plugin opens it")})
    with running(models) as server:
        for _ in range(2):
            refused = server.post("/v1/completions", prompt="x")
            assert (refused.status_code, refused.json()["error"]["message"]) == (400, "no installed plugin opens it")
    assert models.opened == ["student", "student"]


def test_the_model_that_was_not_asked_for_longest_is_unloaded() -> None:
    runtimes = {name: StreamingRuntime() for name in ("student", "control", "teacher")}
    with running(ScriptedModels(runtimes), limits=Limits(keep=2)) as server:
        for name in ("student", "control", "student", "teacher"):
            assert server.post("/v1/completions", prompt="x", model=name).status_code == 200
        loaded = [card["id"] for card in server.get("/v1/models").json()["data"] if card["kdtool"]["loaded"]]
        assert loaded == ["student", "teacher"]
        assert runtimes["control"].closed


def test_only_offered_models_are_listed_the_default_first() -> None:
    models = ScriptedModels({"student": StreamingRuntime(), "control": StreamingRuntime()})
    with running(models, offered=["control"]) as server:
        assert [card["id"] for card in server.get("/v1/models").json()["data"]] == ["control"]
        assert server.post("/v1/completions", prompt="x").json()["model"] == "control"


def test_a_client_that_leaves_the_queue_frees_its_place_and_costs_nothing() -> None:
    student = StreamingRuntime(lambda _: "word " * 500, streams=1, seconds=0.02)
    with running(ScriptedModels({"student": student})) as server, ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.post, "/v1/completions", prompt="x", max_tokens=50)
        while not student.open:
            time.sleep(0.01)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json={"prompt": "second"}, timeout=0.2)
        time.sleep(0.1)
        assert server.pool.engines["student"].admitted == 1
        assert first.result(20).status_code == 200
        assert [asked.prompt for asked in student.asked] == ["x"]


def test_models_are_closed_and_threads_end_with_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    student = StreamingRuntime(lambda _: "word " * 500, seconds=0.02)
    before, began = {*threading.enumerate()}, time.perf_counter()
    with running(ScriptedModels({"student": student})) as server, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(server.post, "/v1/completions", prompt="x", max_tokens=500, stream=True)
        while not student.open:
            time.sleep(0.01)
        server.stop()
        assert '"code":"server_ends"' in asked.result(10).text
    assert time.perf_counter() - began < 6
    assert student.closed
    assert capfd.readouterr().err == "", "no traceback"
    for thread in {*threading.enumerate()} - before:
        thread.join(2)
        assert not thread.is_alive()


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_disconnects_leave_no_thread_slot_file_or_memory(count: int) -> None:
    student = StreamingRuntime(lambda _: "word " * 200, streams=4, seconds=0.002)
    with running(ScriptedModels({"student": student})) as server:
        asyncio.run(_disconnect(server, 50))  # what is made once is made
        _settle(server, student)
        before = _state()
        asyncio.run(_disconnect(server, count))
        _settle(server, student)
        after = _state()
        assert server.post("/v1/completions", prompt="x", max_tokens=2).status_code == 200
    assert after["threads"] <= before["threads"]
    assert after["files"] <= before["files"]
    assert after["memory"] - before["memory"] < 4e6 + 4e3 * count


async def _disconnect(server: Running, count: int) -> None:
    """Leave at every moment: while the request waits, at the first pieces, between others."""

    async def leave(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stream = "true" if number % 3 else "false"
        body = f'{{"prompt": "x", "max_tokens": 200, "stream": {stream}, "n": {1 + number % 2}}}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body)[: len(head) + (3 if number % 7 == 0 else len(body))].encode())
        await writer.drain()
        await asyncio.sleep(0.003 * (number % 10))
        if number % 2:
            writer.transport.abort()
        writer.close()

    for start in range(0, count, 10):
        await asyncio.gather(*(leave(number) for number in range(start, start + 10)))


def _settle(server: Running, student: StreamingRuntime) -> None:
    for _ in range(400):
        if not (student.open or server.pool.engines["student"].admitted):
            break
        time.sleep(0.02)
    assert (student.open, server.pool.engines["student"].admitted) == (0, 0)
    time.sleep(0.3)


def _state() -> dict[str, int]:
    gc.collect()
    process = psutil.Process()
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return {"threads": threading.active_count(), "files": files, "memory": process.memory_info().rss}
