"""Code to copy for each file: what its exporter writes, and the programs that read its format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import kdtool

from kdtool_model_card._card_file import CardFile
from kdtool_model_card._ollama import modelfile

__all__ = ["snippets"]


def snippets(results: kdtool.Results, files: Sequence[CardFile], repository: str) -> Iterator[str]:
    """Yield a block of code for each file, and for the programs that read it."""
    if repository and any(file.place != "." for file in files):
        yield from (
            "Download the files, and run the lines below in their folder:",
            *_block("console", f"hf download {repository} --local-dir {repository.partition('/')[2]}"),
        )
    for file in files:
        if file.artifact.how_to_use:
            yield from (f"### {_title(file)}", *_exporter_code(results, file, repository), "")
    gguf = next((file for file in files if file.artifact.format == "gguf"), None)
    if gguf is not None:
        yield from _llama_cpp(results, gguf)
    if any(file.artifact.format == "safetensors" for file in files):
        yield from _vllm(results, next(file for file in files if file.artifact.format == "safetensors"), repository)


def _title(file: CardFile) -> str:
    """Return the name of the program that reads a file's format, with the file."""
    readers = {"safetensors": "transformers", "gguf": "llama.cpp", "onnx": "ONNX Runtime"}
    kind = readers.get(file.artifact.format, file.artifact.format)
    return kind if file.place == "." else f"{kind}: `{file.place}`"


def _exporter_code(results: kdtool.Results, file: CardFile, repository: str) -> Iterator[str]:
    """Yield the exporter's code, with the file's place for its path, also for a run that was moved."""
    target = repository if repository and file.place == "." else file.place
    path = file.artifact.path
    below = path.relative_to(results.folder).as_posix() if path.is_relative_to(results.folder) else path.name
    code = file.artifact.how_to_use.replace(str(path), target)
    code = re.sub(rf"[^\s'\"]*/{re.escape(below)}", lambda _: target, code)
    yield from _block("python" if "import " in code else "console", code)


def _llama_cpp(results: kdtool.Results, file: CardFile) -> Iterator[str]:
    """Yield llama.cpp in Python, by the wheel `xllamacpp`, and Ollama."""
    code = f"""\
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "{file.place}"
params.n_ctx = {min(results.models["student"].context, 4096) if "student" in results.models else 4096}
server = xllamacpp.Server(params)
answer = server.handle_completions({{"prompt": "def fibonacci(n):\\n", "max_tokens": 64, "temperature": 0}})
print(answer["choices"][0]["text"])
"""
    yield from ("### llama.cpp in Python (`pip install xllamacpp`)", *_block("python", code), "")
    yield from ("### Ollama", "`Modelfile` in the folder of the file:", *_block("text", modelfile(results, file)))
    name = file.place.removesuffix(".gguf").lower()
    yield from (*_block("console", f"ollama create {name} -f Modelfile\nollama run {name}"), "")
    yield from ("The lines for Ollama were not executed by the tests of kdtool.", "")


def _vllm(results: kdtool.Results, file: CardFile, repository: str) -> Iterator[str]:
    target = repository if repository and file.place == "." else file.place
    limit = f" --max-model-len {results.models['student'].context}" if "student" in results.models else ""
    yield from ("### vLLM", *_block("console", f"vllm serve {target}{limit}"), "")
    yield "The line for vLLM was not executed by the tests of kdtool."


def _block(language: str, code: str) -> Iterator[str]:
    yield from (f"```{language}", code.rstrip("\n"), "```")
