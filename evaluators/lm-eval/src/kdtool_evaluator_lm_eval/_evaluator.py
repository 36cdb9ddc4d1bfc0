"""The evaluator `lm-eval` and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

_LONGEST = 2048
"""Tokens of a request with its reply, about: most tasks have shorter ones."""


class LMEval(kdtool.Evaluator):
    """Tasks of lm-evaluation-harness: its prompts and scores, with a score for each document."""

    class Config(kdtool.Config):
        """Settings of `lm-eval`."""

        tasks: tuple[str, ...] = kdtool.Field(min_length=1)
        """Tasks, groups or tags of lm-evaluation-harness, or tasks in `include`. Each task is measured as
        `lm-eval.<task>.<metric>`, with `.<filter>` after it if the task has named filters."""
        include: tuple[kdtool.RecipePath, ...] = ()
        """Folders with further tasks as YAML files of the harness, relative to the recipe. Paths in such a file are
        relative to it. Functions that it names with `!function` run in this process: include only files that you trust."""
        fewshot: int | None = kdtool.Field(default=None, ge=0, le=1000)
        """Examples before each document; null uses those of the task. Tasks that have 0 on purpose keep it."""
        limit: int | None = kdtool.Field(default=None, ge=1)
        """Maximum number of documents per task, the first ones, as `--limit` of the harness; null uses all, as published
        scores do."""
        form: Literal["base", "chat"] = "base"
        """`base` has the model continue a text; `chat` uses its chat template, for tasks that generate."""

    config: Config
    reads_text = False
    measurements = ("lm-eval.*",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._manager: TaskManager | None = None
        self._loaded: Mapping[str, Task] | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the harness's version and a digest of the tasks with their documents.

        Raises:
            kdtool.UsageError: a task is unknown, cannot be loaded or cannot be measured here.
        """
        from importlib.metadata import version

        from kdtool_evaluator_lm_eval._tasks import digest

        return {"harness": version("lm_eval"), "tasks": digest(self._tasks(run), self.config.limit)}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Find the tasks by name at the start; once there is text, load their documents.

        Raises:
            kdtool.UsageError: a task is unknown, cannot be loaded or cannot be measured here.
        """
        if when == "start":
            self._find()
        else:
            self._tasks(run)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_of_exact_heads, bytes_to_answer

        student = ahead.models.get(ahead.student)
        if student is not None:
            size = bytes_to_answer(ahead, min(_LONGEST, student.context or _LONGEST)) + bytes_of_exact_heads(ahead)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return the documents of all tasks as prompts with their targets, without few-shot examples.

        Raises:
            kdtool.UsageError: a task is unknown, cannot be loaded or cannot be measured here.
        """
        from kdtool_evaluator_lm_eval._tasks import problems

        return list(problems(self._tasks(run)))

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield the metrics of each task; items are its documents.

        Raises:
            kdtool.UsageError: a task is unknown, cannot be loaded or cannot be measured here.
        """
        from kdtool_evaluator_lm_eval._scores import SubjectModel, measure_task

        tasks = self._tasks(run)
        for subject in subjects:
            for name, task in tasks.items():
                model = SubjectModel(run, subject, task, name, self.config.form)
                yield from measure_task(run, subject, task, name, model, self.config.limit)

    def _find(self) -> TaskManager:
        from kdtool_evaluator_lm_eval._tasks import find_tasks

        if self._manager is None:
            self._manager = find_tasks(self.config.tasks, self.config.include)
        return self._manager

    def _tasks(self, run: kdtool.RunInfo) -> Mapping[str, Task]:
        from kdtool_evaluator_lm_eval._tasks import load_tasks

        if self._loaded is None:
            config = self.config
            self._loaded = load_tasks(
                self._find(), config.tasks, config.include, config.fewshot, config.form, is_offline=run.offline
            )
        return self._loaded
