"""Find and load tasks of the harness; refuse those that it or this evaluator cannot measure.

The harness's progress bars, warnings and network are off meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import kdtool
from kdtool_torch import isolated_rng
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

SEED = 1234
"""The harness's seed of the choice of examples; also of sampling."""
_KEY = "lm-eval.tasks"
_NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
}
"""Settings of generation that change nothing at these values."""
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


def digest(tasks: Mapping[str, Task], most: int | None) -> str:
    """Return a digest of settings and documents: 12 hex digits. `most` documents of each task count."""
    hash_ = sha256()
    for name, task in tasks.items():
        settings = {key: value for key, value in task.dump_config().items() if key != "metadata"}
        hash_.update(json.dumps([name, str(task.VERSION), settings], default=_describe, sort_keys=True).encode())
        for _, document in task.doc_iterator(limit=most):
            hash_.update(json.dumps(document, default=_describe, sort_keys=True).encode())
    return hash_.hexdigest()[:12]


def problems(tasks: Mapping[str, Task]) -> Iterator[kdtool.Example]:
    """Yield each document as prompt and target, without documents that are blank."""
    for name, task in tasks.items():
        for number, document in enumerate(task.eval_docs):
            prompt, target = _texts(task, document)
            if (prompt + target).strip():
                yield kdtool.Example(f"{name}/{number}", kdtool.Completion(prompt, target), "test")


def find_tasks(names: Sequence[str], include: Sequence[Path]) -> TaskManager:
    """Return a manager that knows all the names; documents are not loaded.

    Raises:
        kdtool.UsageError: a name is unknown, a folder is missing, or a task runs code.
    """
    for folder in include:
        if not folder.is_dir():
            raise kdtool.UsageError(
                f"lm-eval.include: {folder} is not a directory; expected a folder with tasks as YAML files; correct the path"
            )
    with quiet():
        manager = TaskManager(include_path=[*include], include_defaults=False)
        if not all(name in manager.task_index for name in names):
            manager = TaskManager(include_path=[*include])
    for name in names:
        if name not in manager.task_index:
            raise _unknown(name, manager, include)
        if any(settings.get("unsafe_code") for settings in _settings(name, manager)):
            raise _unsafe(name)
    return manager


def load_tasks(
    manager: TaskManager,
    names: Sequence[str],
    include: Sequence[Path],
    fewshot: int | None,
    form: str,
    *,
    is_offline: bool = False,
) -> dict[str, Task]:
    """Return the tasks by name, with their documents, by the manager of `find_tasks`. Groups and tags become their tasks.

    Raises:
        kdtool.UsageError: documents are not available, or a task cannot be measured in this form.
    """
    tasks: dict[str, Task] = {}
    for name in names:
        with isolated_rng(), quiet(), offline(wanted=is_offline), _folder_of(name, manager, include):
            try:
                tasks |= manager.load([name])["tasks"]
            except Exception as error:  # of the harness, the Hub's libraries or a task's own functions
                raise _unavailable(name, error) from error
    for name, task in tasks.items():
        _require_measurable(name, task, form)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", fewshot or 0)
        elif fewshot is not None and task.get_config("num_fewshot"):
            task.set_config("num_fewshot", fewshot)
        task.set_fewshot_seed(SEED)
    return tasks


def generation_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings of generation under the names `until`, `max_gen_toks`, `do_sample`, `temperature` and others."""
    with quiet():
        return dict(normalize_gen_kwargs(dict(settings)))


def _settings(member: str | Mapping[str, Any], manager: TaskManager) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of all tasks that a name, or a member of a group, stands for."""
    index = manager.task_index
    if isinstance(member, str):
        entry = index.get(member)
        if entry is not None and entry.kind.name == "TAG":
            for name in entry.tags:
                yield from _settings(name, manager)
        elif entry is not None and entry.cfg is not None:
            yield from _settings(entry.cfg, manager)
        return
    inner = member.get("task")
    if isinstance(inner, list):
        for each in inner:
            yield from _settings(each, manager)
        return
    yield member
    if isinstance(inner, str) and inner in index and index[inner].cfg is not member:
        yield from _settings(inner, manager)


def _folder_of(name: str, manager: TaskManager, include: Sequence[Path]) -> Any:
    """Return a context in the folder of a file in `include`, to which its paths are relative."""
    file = manager.task_index[name].yaml_path
    is_ours = file is not None and any(file.is_relative_to(folder) for folder in include)
    return chdir(file.parent) if file is not None and is_ours else nullcontext()


def _require_measurable(name: str, task: Task, form: str) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise _unsafe(name)
    if getattr(task, "MULTIMODAL", False):
        raise kdtool.UsageError(f"{_KEY}: {name!r} shows images or sound; expected a task of text; remove it")
    if unknown := [metric for metric, aggregate in task.aggregation().items() if not callable(aggregate)]:
        raise kdtool.UsageError(
            f"{_KEY}: {name!r} aggregates {', '.join(unknown)} by a name unknown to the harness; expected one that is "
            "registered, such as mean; correct the task"
        )
    if task.OUTPUT_TYPE != "generate_until":
        if form == "chat":
            raise kdtool.UsageError(
                f"lm-eval.form: {name!r} compares likelihoods, and `chat` is for tasks that generate; set form: base, or "
                "name other tasks"
            )
        return
    given = generation_of(task.get_config("generation_kwargs") or {})
    others = [key for key in given if key not in _KNOWN and given[key] != _NEUTRAL.get(key)]
    if others:
        raise kdtool.UsageError(
            f"{_KEY}: {name!r} generates with {', '.join(others)}, which subjects do not support; expected only "
            f"{', '.join(sorted(_KNOWN))}; change them in a copy of the task, in a folder of `include`"
        )


def _unknown(name: str, manager: TaskManager, include: Sequence[Path]) -> kdtool.UsageError:
    near = get_close_matches(name, manager.all_tasks, 3)
    meant = f" (similar: {', '.join(near)})" if near else ""
    folders = f", or of a readable YAML file in {', '.join(map(str, include))}" if include else ""
    return kdtool.UsageError(
        f"{_KEY}: unknown task {name!r}{meant}; expected a task, group or tag of lm-evaluation-harness "
        f"{version('lm_eval')}{folders}; `lm-eval ls tasks` lists them"
    )


def _unsafe(name: str) -> kdtool.UsageError:
    return kdtool.UsageError(
        f"{_KEY}: {name!r} runs programs that a model wrote, and the harness has no sandbox; expected a task that compares "
        "text or likelihoods; measure programs with humaneval, mbpp or multilingual, which run them in kdtool's sandbox"
    )


def _unavailable(name: str, error: Exception) -> kdtool.UsageError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return kdtool.UsageError(
        f"{_KEY}: {name!r} cannot be loaded: {type(error).__name__}: {reason}; expected documents in a local file, in the "
        "local cache or on the Hub; download them once with a network, or give a file by `dataset_kwargs: {data_files: …}` "
        "of a task in `include`"
    )


def _texts(task: Task, document: Any) -> tuple[str, str]:
    """Return a document's prompt and target as texts; with several, all of them."""
    prompt, target = task.doc_to_text(document), task.doc_to_target(document)
    choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else ()
    return _text(prompt, choices), _text(target, choices)


def _text(value: Any, choices: Sequence[str]) -> str:
    if isinstance(value, int) and value < len(choices):
        return choices[value]
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _describe(value: object) -> str:
    return type(value).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what the block writes to stderr; errors are raised as usual."""
    with redirect_stderr(StringIO()):
        yield


@contextmanager
def offline(*, wanted: bool) -> Iterator[None]:
    """Have the Hub's libraries use only their caches during the block, if `wanted`."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE or wanted
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
