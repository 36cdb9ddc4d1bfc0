"""The exporter `web`: a folder with a static page that runs the student in a browser.

The folder has the graphs, the page, the browser's runtime from npm, the tokenizer, and the settings file of ONNX
Runtime GenAI (https://onnxruntime.ai/docs/genai/reference/config.html). A headless Chromium compares the graphs with
the student.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_export.shared import DescribedExporter
from kdtool_export.web.settings import WebConfig

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

    from kdtool_export.web.graph import Shape


__all__ = ["Web"]
_BYTES = {"int8": 1.13, "q4": 0.8, "q4f16": 0.7}
"""Bytes of a file per parameter, for a small student: its embedding has 8 bits in each type."""
_PAGE_FILES = ("index.html", "page.js", "engine.js", "style.css")
_RUNTIME_BYTES = 42_000_000


class Web(DescribedExporter):
    """Writes a folder with a static page that runs the student in a browser, on WebGPU or in WebAssembly."""

    extra = "web"

    class Config(WebConfig):
        """Settings of the exporter `web`."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            size = sum(_BYTES[dtype] for dtype in self.config.dtypes) * student.parameters
            yield kdtool.Estimate("exported student", ("exports",), 12 * student.parameters)
            yield kdtool.Estimate("exported student", disk_bytes=int(size) + _RUNTIME_BYTES)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a machine without npm or the files of `runtime`, a missing browser, and a student of another class.

        Raises:
            UsageError: one of these.
        """
        from kdtool_export.web.npm import require_runtime

        require_runtime(self.config.runtime)
        if self.config.browser not in {"auto", "none"} and shutil.which(self.config.browser) is None:
            raise kdtool.UsageError(
                f"web.browser: {self.config.browser} is not a program; expected auto, none, or the path of a Chromium: "
                "install it, or set browser: auto"
            )
        if run.untrained is not None:
            from kdtool_transformers import open_config

            from kdtool_export.web.graph import require_llama

            require_llama(open_config(run.untrained, offline=True))

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        """Write the folder, and compare its files with the student, in a browser if there is one.

        Raises:
            UsageError: the student's class is not supported, or a file would be too large for browsers.
            PluginError: the page fails, splits text differently from the student, or computes other probabilities.
            ServiceError: npm cannot fetch the runtime.
        """
        from kdtool_torch import widen
        from kdtool_transformers import open_model
        from kdtool_transformers.card import model_card, write_notices

        from kdtool_export.web.graph import require_llama, shape_of
        from kdtool_export.web.npm import find_runtime
        from kdtool_export.web.parity import measure

        find_runtime(self.config.runtime)
        folder = run.folder / "web"
        student = open_model(trained, offline=True)
        widen(student.model)
        require_llama(student.model.config)
        shape = shape_of(student.model.config, self.config.context)
        self._write(run, student, shape, folder)
        parities = measure(run, student, shape, folder, self.config)
        for parity in parities:
            run.say(f"web: {parity}")
        write_notices(folder, run)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        use = f"```console\n{_HOW_TO_USE.format(path='.')}```"
        compared = "ONNX graphs with a key-value cache and a page that runs them, compared with the student:"
        stored = "\n".join([compared, "", *(f"- {parity}" for parity in parities)])
        card = model_card(run, student.facts, stored=stored, library="onnxruntime", use=use)
        return kdtool.Artifact(folder, "web", size, self.config.dtypes[0], _HOW_TO_USE, card)

    def _write(self, run: kdtool.RunInfo, student: TransformersModel, shape: Shape, folder: Path) -> None:
        from kdtool_export.web.graph import build_graph
        from kdtool_export.web.npm import copy_runtime

        (folder / "onnx").mkdir(parents=True)
        sizes: dict[str, int] = {}
        for dtype in self.config.dtypes:
            graph = build_graph(student.model, dtype, shape)
            sizes[dtype] = (folder / "onnx" / f"model_{dtype}.onnx").write_bytes(graph)
        with as_file(files("kdtool_export.web").joinpath("page")) as page:
            for name in _PAGE_FILES:
                shutil.copyfile(page / name, folder / name)
        copy_runtime(self.config.runtime, folder / "runtime")
        student.tokenizer.inner.save_pretrained(folder)
        student.model.config.save_pretrained(folder)
        student.model.generation_config.save_pretrained(folder)
        written = {
            "student.json": _page_settings(run, student, shape, sizes),
            "genai_config.json": genai_config(student, shape, self.config.dtypes[0]),
        }
        for name, content in written.items():
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_HOW_TO_USE = "kdtool serve --static {path}\n"


def _page_settings(
    run: kdtool.RunInfo, student: TransformersModel, shape: Shape, sizes: Mapping[str, int]
) -> Mapping[str, object]:
    """Return what the page needs to know of the student."""
    about = (
        f"A small language model of {student.facts.parameters / 1e6:.3g} million parameters that completes code, made by "
        f"distillation with kdtool (run {run.name}). It makes mistakes: check what it writes."
    )
    return {
        "name": run.name,
        "about": about,
        "files": {dtype: {"path": f"./onnx/model_{dtype}.onnx", "bytes": size} for dtype, size in sizes.items()},
        "layers": shape.layers,
        "kvHeads": shape.kv_heads,
        "headSize": shape.head_size,
        "context": shape.context,
        "begin": list(student.tokenizer.document_start),
        "end": sorted(student.tokenizer.end_ids),
    }


def genai_config(student: TransformersModel, shape: Shape, dtype: str) -> Mapping[str, Any]:
    """Return the content of `genai_config.json`: ends of an answer, names of inputs and outputs, greedy search."""
    ends = sorted(student.tokenizer.end_ids)
    start = student.tokenizer.document_start
    decoder = {
        "filename": f"onnx/model_{dtype}.onnx",
        "session_options": {"provider_options": []},
        "head_size": shape.head_size,
        "hidden_size": student.facts.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",  # a decoder with a cache; the graph itself says the rest
        "bos_token_id": (start or ends)[0],
        "eos_token_id": ends,
        "pad_token_id": ends[0],
        "context_length": shape.context,
        "vocab_size": shape.vocabulary,
        "decoder": decoder,
    }
    search = {"max_length": shape.context, "do_sample": False, "past_present_share_buffer": False}
    return {"model": model, "search": search}
