"""Use of exported files: code to copy from a card, and the Modelfile of a GGUF file.

Code comes from a file's exporter, and for the programs that read its format. `ollama create` reads the Modelfile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import kdtool

from kdtool_transformers.card.tables import CardFile


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


def _block(language: str, code: str) -> Iterator[str]:
    yield from (f"```{language}", code.rstrip("\n"), "```")


def modelfile(results: kdtool.Results, file: CardFile) -> str:
    """Return the file that `ollama create` reads for a GGUF file next to it.

    Ollama reads the chat template, the vocabulary and the tokens that end an answer from the GGUF file, but FIM tokens only
    from a `TEMPLATE` with `.Suffix`. That replaces the chat template, so only a model without one gets it.
    """
    student = results.models.get("student")
    lines = [f"FROM ./{file.place}", *([f"PARAMETER num_ctx {student.context}"] if student else [])]
    path = file.artifact.path
    return "\n".join([*lines, "PARAMETER temperature 0", *(_gap_lines(path) if path.is_file() else ())]) + "\n"


def _gap_lines(path: Path) -> Iterator[str]:
    """Yield the template of a request with a suffix, and the tokens that end the text; nothing if it needs none."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
    except (ValueError, IndexError):  # of a version that the library cannot read, or cut short
        return

    def token(name: str) -> str:
        field = fields.get(f"tokenizer.ggml.{name}_token_id")
        text = fields["tokenizer.ggml.tokens"].contents(int(field.contents())) if field else ""
        return "" if re.search(r'["\n]|{{|}}', text) else text  # Ollama has no escapes

    prefix, suffix, middle = (token(f"fim_{part}") for part in ("pre", "suf", "mid"))
    byte_level = "tokenizer.ggml.model" in fields and fields["tokenizer.ggml.model"].contents() == "gpt2"
    if not (byte_level and prefix and suffix and middle) or "tokenizer.chat_template" in fields:
        return
    gap = f"{prefix}{{{{ .Prompt }}}}{suffix}{{{{ .Suffix }}}}{middle}"
    yield f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""'
    ends = dict.fromkeys([token("eos"), token("eot"), prefix, suffix, middle])
    yield from (f'PARAMETER stop "{end}"' for end in ends if end)
