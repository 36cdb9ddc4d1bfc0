"""The Modelfile of a GGUF file: what `ollama create` reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kdtool

from kdtool_model_card._card_file import CardFile

__all__ = ["modelfile"]


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
        return fields["tokenizer.ggml.tokens"].contents(int(field.contents())) if field else ""

    prefix, suffix, middle = (token(f"fim_{part}") for part in ("pre", "suf", "mid"))
    byte_level = "tokenizer.ggml.model" in fields and fields["tokenizer.ggml.model"].contents() == "gpt2"
    if not (byte_level and prefix and suffix and middle) or "tokenizer.chat_template" in fields:
        return
    gap = f"{prefix}{{{{ .Prompt }}}}{suffix}{{{{ .Suffix }}}}{middle}"
    yield f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""'
    for end in dict.fromkeys([token("eos"), token("eot"), prefix, suffix, middle]):
        if end and '"' not in end:
            yield f'PARAMETER stop "{end}"'
