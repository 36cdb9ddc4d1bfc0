"""A teacher whose layers are divided among two processes: the same bits as whole, in little more than half of the memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, cast

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch import stored_bytes
from kdtool_transformers import CausalTeacher, CausalTeacherConfig, Source, divided
from torch.distributed.tensor import DTensor

REQUEST = kdtool.SignalRequest(frozenset({"logits", "hidden", "attentions"}), (0, 3))


class Local(CausalTeacher):
    """The teacher in a folder."""

    class Config(CausalTeacherConfig):
        model: str = "?"

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(Path(self.config.model))


def local(model: Path, sharding: Literal["off", "full"]) -> Local:
    return Local(Local.Config(model=str(model), sharding=sharding, dtype="float32"))


def held(teacher: CausalTeacher) -> int:
    """Return the bytes of the weights on this process."""
    assert teacher._model is not None
    local = (w.to_local() if isinstance(w, DTensor) else w for w in teacher._model.model.parameters())
    return sum(map(stored_bytes, local))


def compare(folder: Path, merged: bool, rank: int, port: int) -> None:
    """Write whether a divided teacher's signal is that of a whole one, and the bytes of both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if merged:  # as for weights that transformers merges while it loads them
        vars(divided)["weight_files"] = lambda _: []
    found: dict[str, Any] = {}
    signals, batch = {}, packed_batch()
    for sharding in ("off", "full"):
        teacher = local(folder / "model", sharding)
        signals[sharding] = teacher.kdtool_signal(batch, REQUEST)
        found[sharding] = held(teacher)
    one, two = signals["off"], signals["full"]
    assert one.lazy is not None
    assert two.lazy is not None
    found["same"] = torch.equal(one.lazy.hidden, two.lazy.hidden) and torch.equal(
        one.lazy.head.weight, two.lazy.head.weight
    )
    found["same"] &= all(torch.equal(two.hidden[layer], states) for layer, states in one.hidden.items())
    found["same"] &= all(torch.equal(two.attentions[layer], maps) for layer, maps in one.attentions.items())
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
        (estimate,) = local(tmp_path / "model", "full").kdtool_estimate(run, ahead)
        assert found["full"] <= estimate.host_bytes
        assert found["full"] < 0.8 * found["off"]


class Recording(kdtool.Cache):
    """A cache that records on every rank."""

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        return 0


def test_recorded_signals_and_quantised_weights_are_refused(tmp_path: Path) -> None:
    teacher = Local(Local.Config(model=str(tmp_path), sharding="full"))
    assert not teacher.kdtool_check(make_run(tmp_path / "run"), "start")
    run = make_run(tmp_path / "run", {"signals": Recording(Recording.Config())})
    assert "leave `signals` out" in teacher.kdtool_check(run, "start")[0]
    with pytest.raises(ValueError, match="sharding: full divides unquantised weights"):
        Local.Config(model="?", sharding="full", quantise="nf4")
