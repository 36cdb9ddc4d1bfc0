"""A `CausalTeacher` on another device than the student, after training, and divided among two processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import kdtool
import pydantic
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch import device as device_module
from kdtool_torch import move, named_device, pick_device, stored_bytes
from kdtool_transformers import (
    CausalTeacher,
    CausalTeacherConfig,
    Source,
    TransformersModel,
    TransformersRuntime,
    divided,
    open_model,
)
from kdtool_transformers import teacher as teacher_module
from torch.distributed.tensor import DTensor

ALL = kdtool.SignalRequest(frozenset({"logits", "hidden", "attentions", "projections"}), (0, 1))
SUBJECT = kdtool.Subject("teacher", "teacher")


class Local(CausalTeacher):
    """The teacher in a folder."""

    class Config(CausalTeacherConfig):
        model: str = "?"

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(Path(self.config.model))


def local(model: Path, **settings: Any) -> Local:
    return Local(Local.Config(model=str(model), **settings))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [found for own in value.values() for found in tensors(own)]
    if is_dataclass(value):
        return [found for field in fields(value) for found in tensors(getattr(value, field.name))]
    return []


def test_a_named_device_changes_no_signal_and_no_fingerprint(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    run, batch = make_run(tmp_path / "run"), packed_batch()
    usual, told = (local(tmp_path, device=device) for device in (None, "cpu"))
    assert usual.kdtool_identity(run) == told.kdtool_identity(run)
    expected, found = usual.kdtool_signal(batch, ALL), told.kdtool_signal(batch, ALL)
    assert found.fingerprint == expected.fingerprint
    assert found.lazy is not None
    assert not found.lazy.head.weight.requires_grad
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert torch.equal(one, other)
        assert one.device == batch.input_ids.device
    assert Local.Config.model_fields["device"].json_schema_extra == kdtool.does_not_affect_results()


@pytest.mark.parametrize("spread", [None, "auto"])
def test_a_teacher_whose_documents_see_each_other_is_refused(spread: str | None, tmp_path: Path) -> None:
    """ALiBi's positions are those of the row, not of the document."""
    save_tiny(tmp_path, "bloom", layers=2)
    teacher = local(tmp_path, dtype="float32", device_map=spread)
    with pytest.raises(kdtool.PluginError, match=r"BloomForCausalLM.*its documents see each other"):
        teacher.kdtool_signal(packed_batch(), kdtool.SignalRequest(frozenset({"logits"})))


def test_every_tensor_of_a_batch_and_of_a_signal_moves(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    batch = packed_batch()
    batch.columns["kind"] = torch.zeros_like(batch.labels)  # type: ignore[index]
    signal = local(tmp_path).kdtool_signal(batch, ALL)
    assert signal is not None
    elsewhere = torch.device("meta")
    for record in (batch, signal):
        there = tensors(move(record, elsewhere))
        assert len(there) == len(tensors(record)) > 4
        assert {tensor.device for tensor in there} == {elsewhere}
        stayed = tensors(move(record, batch.labels.device))
        assert all(one is other for one, other in zip(stayed, tensors(record), strict=True))


def test_the_head_is_copied_beside_the_student_once(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    teacher = local(tmp_path)
    model = teacher._open(torch.device("cpu"))
    elsewhere = torch.device("meta")
    copied = teacher._head(model, elsewhere)
    assert copied.weight.device == elsewhere
    assert teacher._head(model, elsewhere) is copied
    assert teacher._head(model, torch.device("cpu")).weight.data_ptr() == model.head.weight.data_ptr()
    teacher.kdtool_close()
    assert teacher._head_beside is None


def test_a_device_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    lacks = Local(Local.Config(device="cuda:7")).kdtool_check(make_run(tmp_path), "start")
    assert len(lacks) == 1
    assert lacks[0].startswith("device: cuda:7 does not exist; this machine has cpu")
    assert Local(Local.Config(device="cpu")).kdtool_check(make_run(tmp_path), "start") == []
    with pytest.raises(pydantic.ValidationError, match="device"):
        Local.Config(device="gpu")
    with pytest.raises(pydantic.ValidationError, match="give only one of them"):
        Local.Config(device="cpu", device_map="auto")


def test_stored_signals_are_in_the_precision_that_their_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose GPU is faster in bfloat16 and whose CPU is not, and a batch in main memory all the same."""
    save_tiny(tmp_path, layers=2)
    monkeypatch.setattr(teacher_module, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(device_module, "_bfloat16_is_faster", lambda _: False)
    monkeypatch.setattr(device_module, "has_bfloat16", lambda: True)
    run = make_run(tmp_path / "run")
    for device, dtype in ((None, torch.bfloat16), ("cpu", torch.float32)):
        teacher = local(tmp_path, device=device)
        said = teacher.kdtool_identity(run)["dtype"], teacher.kdtool_describe(run).dtype
        assert said == (str(dtype).removeprefix("torch."),) * 2
        signal = teacher.kdtool_signal(packed_batch(), ALL)
        assert signal.lazy is not None
        assert {signal.lazy.hidden.dtype, signal.lazy.head.weight.dtype, signal.hidden[1].dtype} == {dtype}


def test_a_spread_model_stays_where_it_lies_and_another_comes_to_the_batch(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    spread, other = (local(tmp_path, device_map=spread) for spread in ("auto", None))
    here, elsewhere = torch.device("cpu"), torch.device("meta")
    for teacher, second in ((spread, here), (other, elsewhere)):
        assert teacher._open(here).head.weight.device == here
        assert {weight.device for weight in teacher._open(elsewhere).model.parameters()} == {second}


def test_processes_that_were_started_together_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device() == torch.device("cuda")
    for rank, number in ((3, 3), (5, 1)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert pick_device() == named_device("cuda") == torch.device("cuda", number)
    assert named_device("cuda:2") == torch.device("cuda", 2)


def test_an_unloaded_teacher_is_freed_and_opens_again(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    run, teacher = make_run(tmp_path / "run"), local(tmp_path)
    runtime = teacher.kdtool_open(run, SUBJECT)
    assert runtime is not None
    (before,) = runtime.score(["x = 1"])
    runtime.unload()
    assert teacher._model is None
    again = teacher.kdtool_open(run, SUBJECT)
    assert again is not None
    assert list(again.score(["x = 1"])) == [before]


def logits(runtime: kdtool.Runtime | None) -> torch.Tensor:
    assert runtime is not None
    assert isinstance(runtime.model, TransformersModel)
    with torch.no_grad():
        found: torch.Tensor = runtime.model.model.eval()(input_ids=packed_batch().input_ids).logits
    return found


def trained(teacher: Local, run: kdtool.RunInfo, folder: Path) -> torch.Tensor:
    """Train the teacher by a nudge, tell it, and return the logits of what was trained."""
    with teacher.kdtool_trainable(run) as runtime:
        assert isinstance(runtime.model, TransformersModel)
        facts = runtime.model.facts
        assert facts.trainable == facts.parameters
        with torch.no_grad():
            for parameter in runtime.model.model.parameters():
                parameter.mul_(1.1)
        found = logits(runtime)
        runtime.model.save(folder)
    teacher.kdtool_load_weights(run, folder)
    return found


def opened(teacher: Local, run: kdtool.RunInfo) -> torch.Tensor:
    return logits(teacher.kdtool_open(run, SUBJECT))


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft 0.21
def test_an_adapter_is_taken_in_once(tmp_path: Path) -> None:
    import peft

    plain, run = save_tiny(tmp_path / "model"), make_run(tmp_path)
    settings: Any = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(plain.model, settings).save_pretrained(str(tmp_path / "adapter"))
    teacher = local(tmp_path / "model", dtype="float32", adapter=str(tmp_path / "adapter"))
    before, identity = opened(teacher, run), teacher.kdtool_identity(run)
    learnt = trained(teacher, run, tmp_path / "learnt")
    torch.testing.assert_close(opened(teacher, run), learnt)
    assert not learnt.allclose(before, atol=1e-3)
    assert teacher.kdtool_identity(run) != identity
    teacher.kdtool_load_weights(run, None)
    torch.testing.assert_close(opened(teacher, run), before)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_it_learns_with_all_bits_and_speaks_with_few(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", hidden_size=128, intermediate_size=256)
    run = make_run(tmp_path)
    teacher = local(tmp_path / "model", dtype="float32", quantise="nf4")
    trained(teacher, run, tmp_path / "learnt")
    few = open_model(tmp_path / "learnt", dtype=torch.float32, quantise="nf4")
    assert {type(module).__name__ for module in few.model.modules()} >= {"Linear4bit"}
    assert opened(teacher, run).equal(logits(TransformersRuntime(few)))


def held(teacher: CausalTeacher) -> int:
    """Return the bytes of the weights on this process."""
    assert teacher._model is not None
    own = (w.to_local() if isinstance(w, DTensor) else w for w in teacher._model.model.parameters())
    return sum(map(stored_bytes, own))


def compare(folder: Path, merged: bool, rank: int, port: int) -> None:
    """Write whether a divided teacher's signal is that of a whole one, and the bytes of both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if merged:  # as for weights that transformers merges while it loads them
        vars(divided)["weight_files"] = lambda _: []
    found: dict[str, Any] = {}
    signals, batch = {}, packed_batch()
    for sharding in ("off", "full"):
        teacher = local(folder / "model", sharding=sharding, dtype="float32")
        signals[sharding] = teacher.kdtool_signal(batch, ALL)
        found[sharding] = held(teacher)
    one, two = signals["off"], signals["full"]
    found["same"] = all(map(torch.equal, tensors(one), tensors(two))) and len(tensors(one)) == len(tensors(two))
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


_COMPARE = """
import runpy, sys
from pathlib import Path

compare = runpy.run_path(sys.argv[1])["compare"]
compare(Path(sys.argv[2]), sys.argv[3] == "True", int(sys.argv[4]), int(sys.argv[5]))
"""
"""A process that compares: pytest imports this file under a name that another process does not find."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo has no FSDP2 there")
@pytest.mark.parametrize("merged", [False, True])
def test_a_divided_teacher_has_the_signal_of_a_whole_one(tmp_path: Path, merged: bool) -> None:
    save_tiny(tmp_path / "model", layers=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen([sys.executable, "-c", _COMPARE, __file__, str(tmp_path), str(merged), str(rank), str(port)])
        for rank in range(2)
    ]
    for process in processes:
        assert process.wait(180) == 0
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_bytes())
        assert found["same"]
        run, ahead = make_run(tmp_path / "run", world=2), cast("kdtool.RunForecast", None)
        (estimate,) = local(tmp_path / "model", sharding="full", dtype="float32").kdtool_estimate(run, ahead)
        assert found["full"] <= estimate.host_bytes
        assert found["full"] < 0.8 * found["off"]


class Recording(kdtool.Cache):
    """A cache that records on every rank."""

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        return 0


def test_recorded_signals_and_quantised_weights_are_refused(tmp_path: Path) -> None:
    teacher = local(tmp_path, sharding="full")
    assert not teacher.kdtool_check(make_run(tmp_path / "run"), "start")
    run = make_run(tmp_path / "run", {"signals": Recording(Recording.Config())})
    assert "leave `signals` out" in teacher.kdtool_check(run, "start")[0]
    with pytest.raises(ValueError, match="sharding: full divides unquantised weights"):
        Local.Config(model="?", sharding="full", quantise="nf4")
