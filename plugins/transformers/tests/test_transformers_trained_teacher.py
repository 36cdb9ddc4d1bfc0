"""A `CausalTeacher` that is trained: an adapter is taken in once, few bits come back, and its own model returns."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import (
    CausalTeacher,
    CausalTeacherConfig,
    Source,
    TransformersModel,
    TransformersRuntime,
    open_model,
)

IDS = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(0))


class Local(CausalTeacher):
    """The teacher in a folder."""

    class Config(CausalTeacherConfig):
        model: str

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(Path(self.config.model))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


def logits(runtime: kdtool.Runtime | None) -> torch.Tensor:
    assert runtime is not None
    assert isinstance(runtime.model, TransformersModel)
    with torch.no_grad():
        found: torch.Tensor = runtime.model.model.eval()(input_ids=IDS).logits
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
    return logits(teacher.kdtool_open(run, kdtool.Subject("teacher", "teacher")))


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft 0.21
def test_an_adapter_is_taken_in_once(tmp_path: Path) -> None:
    import peft

    plain, run = save_tiny(tmp_path / "model"), make_run(tmp_path)
    settings: Any = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(plain.model, settings).save_pretrained(str(tmp_path / "adapter"))
    teacher = Local(Local.Config(model=str(tmp_path / "model"), dtype="float32", adapter=str(tmp_path / "adapter")))
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
    teacher = Local(Local.Config(model=str(tmp_path / "model"), dtype="float32", quantise="nf4"))
    trained(teacher, run, tmp_path / "learnt")
    few = open_model(tmp_path / "learnt", dtype=torch.float32, quantise="nf4")
    assert {type(module).__name__ for module in few.model.modules()} >= {"Linear4bit"}
    assert opened(teacher, run).equal(logits(TransformersRuntime(few)))
