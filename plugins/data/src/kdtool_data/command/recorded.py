"""Recorded signals: what a recording consists of, whether its files are undamaged, and one row of it as text.

A complete artefact has a `manifest.json` with size and SHA-256 of every file, whichever cache wrote it. The numbers of
rows and tokens, and the complete parts of an interrupted recording, come from the manifests of `kdtool_torch`. They are
None for caches that do not use it. Recordings and samples are plain data, which `--json` prints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_torch import NO_LABEL, collate, exact_logits, load_manifests

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
TOP = 8
"""Number of the teacher's tokens shown per position."""
BEFORE = 12
"""Number of the document's tokens shown before a position."""
_TEXT = 24
"""Characters of them in a table."""


def read_recording(
    name: str, signals: kdtool.RecordedSignals, rows: kdtool.RowSource, *, verify: bool
) -> dict[str, Any]:
    """Read the manifests of recorded signals and check the files; `verify` also checks their hashes.

    `bytes_a_token` excludes data stored once, such as a head.

    Raises:
        StorageError: a manifest is damaged.
    """
    folder = signals.folder
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    whole = (folder / MANIFEST).is_file()
    once, manifests = load_manifests(folder)
    shards = {f"{shard}.safetensors": facts for shard, facts in manifests.items()} if once else {}
    tokens = sum(sum(shard["labels"]) for shard in shards.values()) if once else None
    expected = _files(folder) if whole else {"teacher.safetensors": once, **shards} if once else {}
    problems = {file: _problem(folder / file, facts, verify=verify) for file, facts in expected.items()}
    return {
        "signals": name,
        "whole": whole,
        "folder": str(folder),
        "cache": asdict(signals.cache),
        "teacher": asdict(signals.teacher),
        "kinds": sorted(signals.want.kinds),
        "layers": signals.want.layers,
        "temperature": signals.want.temperature,
        "rows": len(rows),
        "row_length": rows.length,
        "recorded": sum(len(shard["rows"]) for shard in shards.values()) if once else len(rows) if whole else None,
        "tokens": tokens,
        "files": len(sizes),
        "bytes": sum(sizes),
        "bytes_a_token": sum(shard["bytes"] for shard in shards.values()) / tokens if tokens else None,
        "checked": "hashes" if verify else "sizes",
        "damaged": [{"file": file, "problem": problem} for file, problem in problems.items() if problem],
    }


def _files(folder: Path) -> Mapping[str, Any]:
    """Return size and SHA-256 of a complete artefact's files."""
    path = folder / MANIFEST
    try:
        files: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise kdtool.StorageError(
            f"{path} is damaged: {error!r}; delete the folder and run again to record the signals"
        ) from error
    return files


def _problem(path: Path, facts: Mapping[str, Any], *, verify: bool) -> str:
    """Return the problem of a file; "" if it is undamaged."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"has {size:,} bytes instead of {facts['bytes']:,}"
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    return "has another SHA-256 than its manifest"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def take_sample(
    row: kdtool.Row, index: int, positions: int, tokenizer: kdtool.Tokenizer, source: kdtool.SignalSource
) -> dict[str, Any] | None:
    """Recall a row and return its first `positions` labelled positions; None if only hidden states are recorded.

    Each has the text up to it, the label, and the teacher's tokens, likeliest first; `rest` is the probability of all
    others. A label's probability is None if the cache did not keep it.

    Raises:
        StorageError: the row's file is damaged.
    """
    batch = collate([row])
    labelled = (batch.labels[0] != NO_LABEL).nonzero()[:, 0]
    offsets = labelled[:positions]
    labels = batch.labels[0, offsets]
    signal, form, temperature = source.signal(batch), "logits", 1.0
    if signal.sparse is not None:
        form, temperature = signal.sparse.form, signal.sparse.temperature
        shares, order = signal.sparse.weights[: len(labels)].sort(dim=-1, descending=True, stable=True)
        ids = signal.sparse.ids[: len(labels)].gather(1, order)
        of_labels = shares.masked_fill(ids != labels[:, None], 0.0).sum(-1)
    elif signal.lazy is not None:
        odds = exact_logits(signal.lazy.head, signal.lazy.hidden[: len(labels)]).softmax(-1)
        shares, ids = odds.topk(min(TOP, odds.shape[-1]))
        of_labels = odds.gather(1, labels[:, None])[:, 0]
    else:
        return None
    text = _reader(tokenizer)

    def position(offset: int, label: int, ids: Tensor, shares: Tensor, of_label: float) -> dict[str, Any]:
        before = row.input_ids[offset - min(int(batch.positions[0, offset]), BEFORE - 1) : offset + 1]
        tokens = [
            {"id": token, "text": text([token]), "probability": share}
            for token, share in zip(ids[:TOP].tolist(), shares[:TOP].tolist(), strict=True)
            if token >= 0
        ]
        kept = of_label > 0 or form == "logits"
        return {
            "position": offset,
            "before": text(before),
            "label": {"id": label, "text": text([label]), "probability": of_label if kept else None},
            "tokens": tokens,
            "rest": max(0.0, 1 - sum(token["probability"] for token in tokens)),
        }

    arguments = zip(offsets.tolist(), labels.tolist(), ids, shares, of_labels.tolist(), strict=True)
    facts = {"row": index, "key": row.key, "labels": len(labelled), "form": form, "temperature": temperature}
    return {**facts, "positions": [position(*each) for each in arguments]}


def _reader(tokenizer: kdtool.Tokenizer) -> Callable[[Sequence[int]], str]:
    """Return a function that decodes tokens; special tokens have their names."""
    names = tokenizer.tokens()

    @cache
    def word(token: int) -> bytes:
        if not 0 <= token < tokenizer.vocabulary:
            return b"<%d>" % token
        try:
            piece = tokenizer.pieces([token, token])[1]  # twice, since the first token of a text may lose its space
        except kdtool.UsageError:  # the tokenizer's bytes are unknown
            piece = b""
        return piece or names[token].encode()

    return lambda tokens: b"".join(map(word, tokens)).decode(errors="backslashreplace")


def recording_lines(recording: Mapping[str, Any]) -> Iterator[str]:
    """Yield the properties of a recording, one per line."""
    rows, recorded = recording["rows"], recording["recorded"]
    every = f"{rows:,} of {recording['row_length']:,} tokens"
    damaged = f"{len(recording['damaged'])} damaged" if recording["damaged"] else ""
    unchecked = not recording["whole"] and recorded is None
    state = damaged or ("no manifest to check them against" if unchecked else f"all {recording['checked']} match")
    layers = f", layers {', '.join(map(str, recording['layers']))}" if recording["layers"] else ""
    yield f"{recording['signals']}: {'complete' if recording['whole'] else 'incomplete; kdtool run resumes it'}"
    yield f"  folder  {recording['folder']}"
    for part in ("cache", "teacher"):
        record = recording[part]
        settings = ", ".join(f"{key} {value}" for key, value in record["config"].items() if value is not None)
        origin = f" ({record['distribution']} {record['version']})" if record["distribution"] else ""
        yield f"  {part:<8}{record['use']}{origin}{': ' if settings else ''}{settings}"
    yield f"  holds   {', '.join(recording['kinds'])}{layers}, at temperature {recording['temperature']:g}"
    if recorded is None:
        yield f"  rows    {every}; only the cache knows how many are recorded"
    elif recorded == rows:
        yield f"  rows    {every}, all recorded"
    else:
        missing = f"{rows - recorded:,} missing: {recorded} to {rows - 1}"
        yield f"  rows    {every}, {recorded:,} recorded; {missing}"
    if recording["tokens"]:
        yield f"  tokens  {recording['tokens']:,} with a label, {recording['bytes_a_token']:,.1f} bytes each"
    yield f"  files   {recording['files']}, {recording['bytes']:,} bytes; {state}"


def sample_lines(sample: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield a table of the sample's positions."""
    if sample is None:
        yield "only hidden states are recorded, so a row has no tokens to show"
        return
    yield f"row {sample['row']} ({sample['key']}), {len(sample['positions'])} of {sample['labels']} labels"
    yield f"probabilities from {sample['form']}, at temperature {sample['temperature']:g}"
    yield f"{'position':>8}  {'text so far':<{_TEXT}}  {'label':<14} {'p':>5}  the teacher's tokens"
    for position in sample["positions"]:
        label = position["label"]
        share = "-" if label["probability"] is None else f"{label['probability']:.3f}"
        tokens = "  ".join(f"{token['text']!r} {token['probability']:.3f}" for token in position["tokens"])
        before = repr(position["before"])[1:-1][-_TEXT:]
        yield (
            f"{position['position']:>8}  {before:<{_TEXT}}  {label['text']!r:<14} {share:>5}  {tokens}  "
            f"rest {position['rest']:.3f}"
        )
