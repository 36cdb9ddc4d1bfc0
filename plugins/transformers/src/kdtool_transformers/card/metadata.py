"""Metadata of a card as the Hub reads it: the YAML front matter with its scores."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import kdtool

from kdtool_transformers.card.tables import COST, RISK, CardFile, is_of, subject_of

if TYPE_CHECKING:
    from huggingface_hub import CardData, EvalResult, ModelCardData

BENCHMARKS = {
    "humaneval": ("openai/openai_humaneval", "openai_humaneval"),
    "mbpp": ("google-research-datasets/mbpp", "full"),
    "humaneval+": ("evalplus/humanevalplus", "default"),
    "mbpp+": ("evalplus/mbppplus", "default"),
}
"""Dataset on the Hub and its configuration, by the first part of a measurement's name."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_PAGE = re.compile(r"https://huggingface\.co/(?!spaces/|datasets/)([\w.-]+/[\w.-]+)/?")
_DATASETS = {"mbpp": "google-research-datasets/mbpp"}
"""Datasets of corpora that read only one."""


def front_matter(
    results: kdtool.Results, files: Sequence[CardFile], exported: CardData, title: str, licence_file: str = ""
) -> ModelCardData:
    """Return the metadata of an exporter's card, completed; `licence_file` contains the terms of several licences."""
    from huggingface_hub import ModelCardData

    data = {key: value for key, value in vars(exported).items() if value is not None}
    if "base_model" not in data and (bases := list(_base_models(results))):
        data["base_model"] = bases[0] if len(bases) == 1 else bases
    if licence_file and data.get("license") == "other" and "license_link" not in data:
        data["license_link"] = licence_file
    languages = [name for name in results.data.get("languages", {}) if re.fullmatch(r"[\w+#.-]+", name)]
    data["tags"] = [*dict.fromkeys([*data.get("tags", ()), *(file.artifact.format for file in files), *languages])]
    results_of_model = list(_eval_results(results, files))
    return ModelCardData(
        **{
            **data,
            "language": "code",
            "datasets": [*dict.fromkeys(_datasets(results))] or None,
            "model_name": title,
            "eval_results": results_of_model or None,
        }
    )


def hub_names(results: kdtool.Results, components: Collection[str]) -> Iterator[str]:
    """Yield the models on the Hub that these components name, or that their licences link to."""
    pages = {licensed.component: _HUB_PAGE.fullmatch(licensed.terms.url) for licensed in results.licences}
    for component in results.components:
        if component.name in components:
            model, page = component.config.get("model"), pages.get(component.name)
            if isinstance(model, str) and _HUB_NAME.fullmatch(model) and not model.startswith("."):
                yield model
            elif page:
                yield page[1]


def benchmark_of(measurement: kdtool.Measurement) -> str:
    """Return the first part of a measurement's name."""
    return measurement.name.partition(".")[0]


def scores(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[kdtool.Measurement]:
    """Yield measurements of quality of the first file that was measured, else of the student it was exported from."""
    subjects = [subject_of(results, file.artifact) for file in files]
    students = [
        subject for subject in results.subjects if subject.role == "student" and subject.seed == results.arms[0].seed
    ]
    for subject in (*subjects, *students):
        measured = [each for each in results.measurements if subject is not None and each.subject == subject.name]
        if wanted := [each for each in measured if not is_of((*COST, *RISK), each.name)]:
            yield from wanted
            return


def _base_models(results: kdtool.Results) -> Iterator[str]:
    """Yield the models whose weights the student starts from; without any, its teachers."""
    taken = {licensed.component for licensed in results.licences if "weights" in licensed.transfers}
    teachers = {component.name for component in results.components if component.kind == "teacher"}
    yield from dict.fromkeys(hub_names(results, taken or teachers))


def _datasets(results: kdtool.Results) -> Iterator[str]:
    for component in results.components:
        if component.kind == "corpus":
            name = component.config.get("dataset") or _DATASETS.get(component.use, "")
            if isinstance(name, str) and _HUB_NAME.fullmatch(name):
                yield name


def _eval_results(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    for score in scores(results, files):
        benchmark = benchmark_of(score) if "." in score.name else f"{results.name}-text"
        dataset, config = BENCHMARKS.get(benchmark, (benchmark, None))
        interval = {"low": score.low, "high": score.high} if score.low is not None and score.high is not None else {}
        yield EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=benchmark,
            dataset_config=config,
            dataset_split=score.settings.get("split"),
            metric_type=score.name.partition(".")[2] or score.name,
            metric_name=f"{score.name} ({score.unit})" if score.unit else score.name,
            metric_value=score.value,
            metric_args={"items": score.n, **interval},
        )
