"""Scores of chosen tokens by the server's own interface: equal to those from states, compared before the first row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
import torch
from click.testing import CliRunner
from kdtool_teacher_vllm import VLLM
from kdtool_teacher_vllm.command import teacher as command
from kdtool_testing import TeacherConformance
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch import chosen_tokens
from torch import Tensor
from vllm_stand_in import Served

CHOSEN = True
SPOILT = {"row": lambda scores: scores.roll(1, 0), "nan": lambda scores: scores * torch.nan}


def ids_for(batch: kdtool.Batch, width: int = 5) -> Tensor:
    """Return ids for each label, some of them padding."""
    numbers = torch.Generator().manual_seed(0)
    ids = torch.randint(257, (int((batch.labels != -100).sum()), width), generator=numbers, dtype=torch.int32)
    ids[::3, 1] = -1
    ids[1, :] = -1
    return ids


class TestChosenByServer(TeacherConformance):
    component = VLLM
    entry_point = "vllm"
    settings: ClassVar = {"url": "http://127.0.0.1:1/v1", "model": "owner/name", "chosen": "server"}
    served: ClassVar[Served]

    @pytest.fixture(autouse=True)
    def _server(self, served: Served) -> None:
        type(self).served = served

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"url": self.served.url, "model": str(self.served.model), "dtype": "float32", "chosen": "server"}


def test_scores_are_the_model_s_own(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, batch = served.build(), packed_batch()
    want = kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids_for(batch))
    found = teacher.kdtool_signal(batch, want).chosen
    model = served.stand_in.model
    with torch.no_grad():
        outputs = model.backbone(batch, kdtool.SignalRequest())
    expected = chosen_tokens(kdtool.LazyLogits(outputs.last, model.head), want)
    assert found is not None
    assert found.ids is want.chosen
    torch.testing.assert_close(found.log_probabilities, expected.log_probabilities, rtol=1e-5, atol=1e-5)
    teacher.kdtool_close()
    assert teacher.offers == {"chosen", "text"}
    shown = capsys.readouterr().out
    assert "from the server's own and" in shown
    assert "from those of transformers" in shown


@pytest.mark.parametrize("reference", ["weights", "server"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_other_scores_are_refused(served: Served, reference: str, spoil: Any) -> None:
    served.stand_in.spoil_scores = spoil
    batch = packed_batch()
    want = kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids_for(batch))
    with pytest.raises(kdtool.UsageError, match="scores chosen tokens otherwise than the server's own: by"):
        served.build(reference=reference).kdtool_signal(batch, want)


def test_a_server_with_other_weights_is_refused(served: Served, tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", seed=3)
    batch = packed_batch()
    teacher = served.build(model=str(tmp_path / "other"), reference="weights")
    with pytest.raises(kdtool.UsageError, match="otherwise than those of transformers: by"):
        teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids_for(batch)))


@pytest.mark.parametrize(
    "answer",
    [{}, {"prompt_token_id_logprobs": None}, {"prompt_token_id_logprobs": "AAAA"}, {"prompt_token_id_logprobs": ""}],
)
def test_a_server_without_the_interface_is_explained(
    served: Served, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.stand_in, "score", lambda _: answer)
    batch = packed_batch()
    want = kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids_for(batch))
    with pytest.raises(kdtool.UsageError, match=r"returns no prompt_token_id_logprobs .* needs vLLM 0\.32 or newer"):
        served.build().kdtool_signal(batch, want)


def test_other_temperatures_are_refused(served: Served) -> None:
    batch = packed_batch()
    warm = kdtool.SignalRequest(frozenset({"chosen"}), temperature=2.0, chosen=ids_for(batch))
    with pytest.raises(kdtool.UsageError, match="set the loss's temperature to 1, or `chosen: states`"):
        served.build().kdtool_signal(batch, warm)


def test_settings_of_states_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="chosen: server returns no states, so remove layers and folder"):
        VLLM.Config(url="http://127.0.0.1:1/v1", model="owner/name", chosen="server", layers=(1,), folder=Path("x"))


def test_it_trains_and_the_command_starts_no_companion(served: Served, tmp_path: Path) -> None:
    recipe = {
        "name": "run",
        "corpus": {"use": "python-source", "train_files": 8, "validation_files": 2, "test_files": 2},
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 2048},
        "teacher": {"use": "vllm", "url": served.url, "model": str(served.model), "dtype": "float32", "chosen": "server",
                    "licence": "mit"},
        "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
        "trainer": {"use": "standard", "batch": 2},
        "train": {"losses": {"reverse-kl": {"support": {"student": 4}}}, "steps": 3},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    results = kdtool.run(tmp_path / "recipe.yaml", store=tmp_path / "store", out=tmp_path / "runs", offline=True)
    (history,) = results.folder.glob("phases/*/history.jsonl")
    assert all(json.loads(line)["gradient_norm"] > 0 for line in history.read_text().splitlines())
    shown = CliRunner().invoke(command, ["serve", str(tmp_path / "recipe.yaml")], catch_exceptions=False).stdout
    (line,) = shown.splitlines()
    assert line.startswith("VLLM_USE_V2_MODEL_RUNNER=1 vllm serve ")
    assert line.endswith("--enable-scale-out --max-logprobs 256")
