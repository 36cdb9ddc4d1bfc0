"""Models as Ollama describes them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kdtool

from kdtool_command_serve.engine import Engine
from kdtool_command_serve.pool import weights

__all__ = ["describe_model", "describe_process", "list_model", "with_tag"]

_NEVER = "9999-12-31T23:59:59Z"
"""Models stay loaded."""
_TEMPLATE = "{{ if .Suffix }}{{ .Prompt }}{{ .Suffix }}{{ else }}{{ .System }}{{ .Prompt }}{{ end }}{{ .Response }}"
"""The server renders the model's own template. This text only names the fields that requests may have: Continue sends a
suffix if the template mentions it."""


def with_tag(name: str) -> str:
    """Return a model's name as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"


def list_model(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    """Return an entry of `/api/tags`."""
    return {
        **_identity(engine, subject),
        "modified_at": _read_date(subject.path),
        "size": weights(subject.path),
        "details": _details(engine, subject),
        "capabilities": _capabilities(engine),
    }


def describe_process(engine: Engine, subject: kdtool.Subject, runtime: kdtool.Runtime) -> dict[str, Any]:
    """Return an entry of `/api/ps`."""
    return {
        **_identity(engine, subject),
        "size": runtime.memory() or weights(subject.path),
        "details": _details(engine, subject),
        "expires_at": _NEVER,
        "size_vram": 0,
        "context_length": runtime.model.facts.context if runtime.model else 0,
    }


def describe_model(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    """Return the body of `/api/show`. Shapes are those of a loaded model."""
    return {
        "modelfile": f"# served by kdtool\nFROM {with_tag(engine.name)}\n",
        "parameters": "",
        "template": _TEMPLATE,
        "details": _details(engine, subject),
        "model_info": _shapes(engine),
        "capabilities": _capabilities(engine),
        "modified_at": _read_date(subject.path),
    }


def _identity(engine: Engine, subject: kdtool.Subject) -> dict[str, str]:
    """Return name and digest; the digest changes with the name, the size and the date of the files."""
    files = f"{engine.name} {weights(subject.path)} {_read_date(subject.path)}"
    digest = hashlib.sha256(files.encode()).hexdigest()
    return {"name": with_tag(engine.name), "model": with_tag(engine.name), "digest": digest}


def _details(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    model = engine.runtime.model if engine.runtime else None
    is_gguf = subject.path is not None and subject.path.suffix == ".gguf"
    family = _architecture(engine)
    return {
        "parent_model": "",
        "format": "gguf" if is_gguf else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{model.facts.parameters / 1e6:.4g}M" if model else "",
        "quantization_level": model.facts.dtype if model else "",
    }


def _capabilities(engine: Engine) -> list[str]:
    """Return what the model can do; all that continue text fill gaps, if only from one side."""
    abilities = engine.runtime.abilities if engine.runtime else {"continue"}
    return ["completion", "insert"] if {"continue", "infill"} & abilities else ["completion"]


def _shapes(engine: Engine) -> dict[str, Any]:
    model = engine.runtime.model if engine.runtime else None
    family = _architecture(engine)
    if model is None:
        return {"general.architecture": family}
    facts = model.facts
    return {
        "general.architecture": family,
        "general.parameter_count": facts.parameters,
        f"{family}.attention.head_count": facts.heads,
        f"{family}.attention.head_count_kv": facts.kv_heads,
        f"{family}.block_count": facts.layers,
        f"{family}.context_length": facts.context,
        f"{family}.embedding_length": facts.hidden,
        f"{family}.feed_forward_length": facts.feed_forward,
        f"{family}.vocab_size": facts.vocabulary,
    }


def _architecture(engine: Engine) -> str:
    model = engine.runtime.model if engine.runtime else None
    return getattr(getattr(model and model.model, "config", None), "model_type", None) or "unknown"


def _read_date(path: Path | None) -> str:
    seconds = path.stat().st_mtime if path is not None and path.exists() else 0
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
