"""Existing models, without training: `kdtool.evaluate` measures, compares and reports them, `kdtool.open_models` opens them.

A model is a folder, an exported file, or the student of a run with every seed. The recipe of such a run comes from a whole
recipe, or from names, or both. Installed exporters are added, because the exporter that writes a format also reads it.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pydantic

from kdtool._assembly.assemble import assemble
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.reporting import Results
from kdtool._contract.run_info import RunInfo
from kdtool._errors import KdtoolError, RecipeError, UsageError, resumable
from kdtool._plugins.distributions import MODELS, missing_extra
from kdtool._plugins.hooks import translate_errors
from kdtool._plugins.registry import call_plugin, entries_by_name, list_plugins, load
from kdtool._recipe.layers import compose, read_layers, settings_layer
from kdtool._recipe.model import REFERENCE, Recipe
from kdtool._recipe.parser import Parser
from kdtool._recipe.yaml import Node, Place, as_node
from kdtool._results.files import CARD, find_run, read_results, with_whole_paths
from kdtool._run.context import UNADAPTED, Context, open_subject
from kdtool._run.execute import begin, results_of, session, write_report
from kdtool._run.graph import Graph
from kdtool._run.preflight import identify, refuse
from kdtool._run.stages.data import add_texts
from kdtool._run.stages.scores import Measured, add_scores, subjects_of
from kdtool._run.stages.text import StoredTexts
from kdtool._store.shared import GRAPH, MODEL, RESULTS, store_folder
from kdtool._text.names import NAME, VALID_NAME, did_you_mean, name_from
from kdtool._text.terminal import print_line


@resumable()
@translate_errors()
def evaluate(
    models: Sequence[Path | str],
    evaluators: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    corpus: str | None = None,
    recipe: Path | str | None = None,
    name: str | None = None,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
    limit: int | None = None,
) -> Results:
    """Measure models and compare them with each other; a second call resumes where the first stopped.

    Args:
        models: model folders, exported files, names on the Hub such as "OWNER/NAME", and runs (folders, or names below
            `out`), for their students with all seeds; each may have a name in front: "base=path/to/model". None to measure
            only teachers.
        evaluators: names of evaluators; by default those of the recipe.
        settings: key paths to values, such as {"evaluators.perplexity.limit": 16, "corpus.folder": "src"}.
        corpus: the plugin that provides held-out text; by default the recipe's.
        recipe: a recipe file with text, teachers, evaluators' settings, trackers and reporter; by default that of the
            first run among the models.
        name: the name of the run and its folder; by default "eval" with the names of models and evaluators.
        out: the folder for runs.
        store: the folder for what runs share.
        offline: use no network.
        limit: items that each evaluator measures at most: its setting `limit`, unless the settings have it.

    Raises:
        KdtoolError: see `kdtool._errors`; nothing could be measured, or a model is not there.

    Example:
        results = kdtool.evaluate(["small", "large"], ["perplexity"], corpus="python-source")
        print(results.verdict)
    """
    if name and not NAME.fullmatch(name):
        raise UsageError(f"the run's name (`--name`) must be {VALID_NAME}, not {name!r}")
    chosen = models_of(models, Path(out), offline=offline)
    path = Path(recipe) if recipe is not None else None
    rest = [path and path.resolve(), corpus, settings, limit]
    name = name or _own_name([model.arm for model in chosen], evaluators, rest)
    run = next((model.run for model in chosen if model.run), None)
    whole = path or (with_whole_paths(read_results(run)) if run else None)
    loaded = measuring_recipe(name, evaluators, settings or {}, corpus=corpus, recipe=whole, limit=limit)
    with assemble(loaded, print_line) as assembly:
        _require_subjects(chosen, assembly.of_kind("teacher"))
        named = assembly.of_kind("evaluator")
        others = {name for name in named if evaluators and name.rpartition(".")[2] not in evaluators}
        work, unused = partial(_measure, chosen, others), {*others, *assembly.of_kind("exporter")}
        folder = Path(out).absolute() / name
        return session(assembly, folder, store_folder(store), work, unused=unused, offline=offline)


def _require_subjects(models: Sequence[Model], teachers: Collection[str]) -> None:
    """Refuse to measure nothing, and a model with the name of a teacher."""
    if taken := sorted({name for model in models for name in (model.name, model.arm)} & {*teachers}):
        raise UsageError(
            f"a model and a teacher of the recipe are called {taken[0]!r}; give the model another name, such as "
            f"my-{taken[0].rpartition('.')[2]}=FOLDER"
        )
    if not models and not teachers:
        raise UsageError("nothing to measure: name a model's folder, an exported file or a run, or --set teacher.use=…")


def _own_name(arms: Sequence[str], evaluators: Sequence[str], rest: Sequence[object]) -> str:
    """Return a name for a run of these arms and evaluators; `rest` goes into it if there are no arms, or it is too long."""
    whole = "-".join(["eval", *dict.fromkeys([*arms, *evaluators])]).replace(".", "_")
    return whole if arms and NAME.fullmatch(whole) else name_from(whole, "eval", apart=repr(rest))


def _measure(models: Sequence[Model], others: Collection[str], context: Context, run: RunInfo) -> Results:
    """Measure models and the recipe's teachers, by all evaluators except `others`.

    Raises:
        UsageError: nothing was measured.
    """
    start = time.monotonic()
    identify(context, run)  # of other processes than the first, which `session` does not check
    graph = Graph()
    texts = add_texts(context, graph, context.assembly.recipe.shared)
    measured = [*map(_subject_of, models), *subjects_of(context, (), {}, {})]
    scores = add_scores(context, graph, measured, texts, but=others)
    begin(context, run, graph)
    context.make(texts)
    if not context.rank:
        refuse(context.assembly, context.info(texts=StoredTexts(texts.path)), "text", "evaluator", but=others)
    for node in graph.nodes.values():
        context.make(node)
    results = results_of(context, measured, scores, texts)
    unmeasured = {model.name for model in models} - {each.subject for each in results.measurements}
    notes = (*results.notes, *(f"nothing was measured of {name}" for name in sorted(unmeasured)))
    if not results.measurements:
        raise UsageError(f"nothing was measured: {'; '.join(results.notes) or _NOTHING}")
    return write_report(context, run, replace(results, notes=notes, seconds=time.monotonic() - start))


_NOTHING = (
    "evaluators of text need a corpus (--corpus, or one from --recipe), those that compare with a teacher need one "
    "(--recipe, or --set teacher.use=…), and a model is a folder or file that some exporter writes"
)


def _subject_of(model: Model) -> Measured:
    subject = Subject(model.name, "artifact", model.path, model.seed, arm=model.arm)
    return Measured(model.name, model.name, model.arm, model.name, None, lambda: subject, content=model.digest())


_ORDER = ("student", "artifact", "control", "base", "reference", "teacher")


class Models:
    """Models by name, none of them loaded; `open` loads one. `results` are the run's, None if they are of no run.

    `subjects` begin with the student, or the only model; exported files, controls, the student before its training, the
    reference and teachers follow. A teacher that the run trained is opened as it was before.
    """

    def __init__(
        self, subjects: Mapping[str, Subject], prepare: Callable[..., RunInfo], results: Results | None
    ) -> None:
        self.subjects = subjects
        self.results = results
        self._prepare = prepare

    def open(self, name: str) -> Runtime:
        """Open a model, with its weights; the caller closes it.

        Raises:
            UsageError: there is no such model, or no installed plugin opens it.
            RecipeError: a teacher's plugin is not installed any more, or its address is not trusted here.
        """
        if name not in self.subjects:
            raise UsageError(f"there is no model {name!r} here; {did_you_mean(name, self.subjects, what='there are')}")
        subject = self.subjects[name]
        asked = subject.role in ("teacher", "reference")
        given = subject if asked else replace(subject, role="artifact")  # as `kdtool eval` opens it
        # Without teachers for other models: an address may be trusted only in the command that asks it.
        opened = open_subject(self._prepare("exporters", *(("teachers", REFERENCE) if asked else ())), given)
        if opened is None:
            left_out = "".join(f"; {exporter} {lacks}" for exporter, lacks in _openers().items() if lacks)
            raise UsageError(
                f"no installed plugin opens {subject.path or name}: name a folder with a model of transformers and its "
                f"tokenizer, or a file of an installed exporter (`kdtool plugins exporter` lists them){left_out}"
            )
        return opened.value


@contextmanager
def open_models(model: Path | str, *, out: Path | str = "runs", offline: bool = False) -> Iterator[Models]:
    """Give the models of a finished run, with its teachers, or the model in a folder or file.

    Args:
        model: a run (its folder, or its name below `out`), a model's folder, or an exported file.
        out: the folder for runs.
        offline: use no network.

    Raises:
        UsageError: there is no such model or run, or the run is not finished.
        RecipeError: a plugin of the run's teachers is not installed.

    Example:
        with kdtool.open_models("quickstart") as models, models.open("student") as student:
            for piece in student.stream(kdtool.Request("1", "def area(", max_tokens=64)):
                print(piece.text, end="")
    """
    with translate_errors(), ExitStack() as stack:
        results, subjects = _find(str(model), Path(out), offline=offline)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdtool-")))

        @cache
        def prepare(*keys: str) -> RunInfo:
            recipe = opening_recipe(results.name, results.recipe, keys) if results else opening_recipe("models", {})
            assembly = stack.enter_context(assemble(recipe, print_line))
            return Context.of(assembly, scratch, store_folder(None), offline=offline).info()

        yield Models(subjects, prepare, results)


def _find(model: str, out: Path, *, offline: bool) -> tuple[Results | None, Mapping[str, Subject]]:
    path = locate_model(model, out, offline=offline)
    if is_model(path):
        single = models_of([model], out, offline=offline)
        return None, {each.name: Subject(each.name, "artifact", each.path) for each in single}
    results = with_whole_paths(read_results(path))
    artifacts = {artifact.path: artifact for arm in results.arms for artifact in arm.artifacts}
    by_name: dict[str, Subject] = {}
    for subject in sorted(results.subjects, key=lambda each: _ORDER.index(each.role)):
        artifact = artifacts.get(subject.path) if subject.path else None
        if not subject.name.endswith(UNADAPTED):
            link = replace(subject, path=results.path_of(artifact)) if artifact else subject
            by_name[subject.name] = link
    return results, by_name


@dataclass(frozen=True)
class Model:
    """One model: `arm` is the name of all its seeds; `seed` and `run` are None for one from elsewhere.

    `run` is the folder of the run that trained it.
    """

    name: str
    arm: str
    path: Path
    seed: int | None = None
    run: Path | None = None

    def digest(self) -> str:
        """Return a hash of all its files except the card: another model in the same place is measured again."""
        found = hashlib.sha256()
        files = [self.path] if self.path.is_file() else sorted(path for path in self.path.rglob("*") if path.is_file())
        for path in (path for path in files if path != self.path / CARD):
            found.update(f"{path.relative_to(self.path).as_posix()}\0".encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()


def models_of(given: Sequence[Path | str], out: Path, *, offline: bool = False) -> list[Model]:
    """Return the given models, each by itself or with all seeds of a run.

    Raises:
        UsageError: one is missing, or two have the same name.
        ServiceError: one on a hub cannot be fetched.
    """
    groups = [list(_models(str(each), out, offline=offline)) for each in given]
    names = [name for models in groups for name in {name for model in models for name in (model.arm, model.name)}]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two models are called {twice[0]!r}: give them names, such as first={given[0]}")
    return [model for models in groups for model in models]


def is_model(path: Path) -> bool:
    """Return whether this is a file, or a folder other than a run's, which may be unfinished."""
    return path.is_file() or (path.is_dir() and not any((path / name).is_file() for name in (RESULTS, GRAPH)))


def locate_model(text: str, out: Path, *, offline: bool) -> Path:
    """Return the file or folder of a model, also of one that a plugin knows by name, or the folder of a finished run.

    Raises:
        UsageError: there is none, or the run is not finished.
        ServiceError: it cannot be fetched.
    """
    path = Path(text).absolute()
    if "/" in text and not path.exists() and not (out / text).exists():
        for plugin in list_plugins(MODELS):
            if folder := call_plugin(MODELS, plugin, text, offline=offline):
                return Path(folder)
    return path if is_model(path) else find_run(text, out, what="model, nor a finished run")


def _models(given: str, out: Path, *, offline: bool) -> Iterator[Model]:
    label, sign, text = given.partition("=")
    if not sign or Path(given).exists():
        label, text = "", given
    folder = locate_model(text, out, offline=offline)
    if is_model(folder):
        # Folders of a run that are named by the kind of their content.
        generic = {MODEL, *entries_by_name("exporter")}
        named = Path(text).absolute()
        plain_name = named.parent.name if named.name in generic else named.name
        name = name_from(label or plain_name, "model", dots=True)
        yield Model(name, name, folder)
        return
    students = [arm for arm in read_results(folder).arms if arm.arm == "student"]
    if not students:
        raise UsageError(f"the run {text!r} has trained no student; name a model's folder")
    name = name_from(label or folder.name, "model", dots=True)
    for arm in students:
        of_seed = f"{name}-seed{arm.seed}" if len(students) > 1 else name
        yield Model(of_seed, name, folder / arm.path, arm.seed, folder)


_KEYS = ("corpora", "filters", "teachers", "evaluators", "exporters", "trackers", "reporter", REFERENCE)


def measuring_recipe(
    name: str,
    evaluators: Sequence[str],
    settings: Mapping[str, Any],
    *,
    corpus: str | None = None,
    recipe: Path | Results | None = None,
    limit: int | None = None,
) -> Recipe:
    """Return a recipe without students and training.

    Args:
        name: the run's name, a valid one.
        evaluators: names; others of the recipe are left out, unless it has filters, which may ask them.
        settings: key paths to values, laid over all else.
        corpus: the corpus, in place of the recipe's corpora and filters.
        recipe: a whole recipe, or a run with its recipe, of which the keys for measuring are used.
        limit: the setting `limit` of evaluators that have it, below `settings`.

    Raises:
        RecipeError: with all mistakes.
        UsageError: no evaluator is named, or none of them has a `limit`.
    """
    origin = Place("", 0, 0, Path.cwd())
    if isinstance(recipe, Results):
        layers = [as_node(recipe.recipe, replace(origin, file=str(recipe.folder / RESULTS)))]
    else:
        layers = read_layers(recipe) if recipe else []
    below = _select(compose(layers), evaluators, corpus) if layers else Node({}, origin)
    overrides: dict[str, Any] = {"evaluators": {evaluator: {} for evaluator in evaluators}}
    if corpus:
        overrides["corpus"] = corpus
    layers = [below, as_node(overrides, origin), settings_layer(settings)]
    composed = compose(layers)
    if not composed.plain().get("evaluators"):
        raise UsageError("no evaluator is named; name some, `--with NAME`, or give a recipe")
    if limit is not None:
        composed = compose([*layers[:2], settings_layer(_limits(_with_openers(name, composed), limit)), layers[2]])
    return _with_openers(name, composed)


def opening_recipe(name: str, recipe: Mapping[str, Any], keys: Sequence[str] = ("teachers", "exporters")) -> Recipe:
    """Return a recipe with some keys of a run's recipe, as `Results.recipe` holds it, to open models.

    Raises:
        RecipeError: with all mistakes, such as a plugin that is not installed any more.
    """
    kept = {key: recipe[key] for key in keys if recipe.get(key)}
    return _with_openers(name, as_node(kept, Place("", 0, 0, Path.cwd())))


def _limits(recipe: Recipe, limit: int) -> dict[str, int]:
    """Return `limit` as a setting of each evaluator that has it.

    Raises:
        UsageError: none has.
    """
    specs, limits = [spec for spec in recipe.shared if spec.kind == "evaluator"], dict[str, int]()
    for spec in specs:
        written = recipe.place(spec.key)
        loaded = load(spec.kind, spec.use, written.folder if written else Path.cwd(), print_line)
        if "limit" in loaded.cls.Config.model_fields:
            limits[f"{spec.path}.limit"] = limit
    if not limits:
        named = ", ".join(spec.name for spec in specs)
        raise UsageError(f"--limit: {named} has no setting `limit`, which counts items; leave out --limit")
    return limits


def _with_openers(name: str, composed: Node) -> Recipe:
    data = composed.plain()
    if isinstance(exporters := data.get("exporters") or {}, Mapping):  # anything else is refused below
        used = {*exporters, *(entry.get("use") for entry in exporters.values() if isinstance(entry, Mapping))}
        data["exporters"] = {
            **{opener: {} for opener, lacks in _openers().items() if opener not in used and not lacks},
            **exporters,
        }
    parser = Parser(Recipe(name, (0,), (), (), None, {"name": name, **data}, composed.places()))
    parser.refuse_unknown((), ("name", *_KEYS))
    if parser.problems:
        raise RecipeError(list(dict.fromkeys(parser.problems)))
    return replace(parser.empty, shared=parser.shared, reference=parser.reference)


def _select(whole: Node, evaluators: Sequence[str], corpus: str | None) -> Node:
    """Return the parts of a recipe for measuring.

    A recipe with filters keeps all evaluators: filters may ask them for their problems, so the text depends on them.
    """
    kept = {key: node for key, node in whole.value.items() if key in _KEYS}
    if corpus:
        kept.pop("corpora", None)
        kept.pop("filters", None)
    named = kept.get("evaluators")
    if named is not None and evaluators and isinstance(named.value, dict) and "filters" not in kept:
        selected = {name: node for name, node in named.value.items() if name in evaluators}
        kept["evaluators"] = Node(selected, named.place)
    return Node(kept, whole.place)


def _openers() -> Mapping[str, str]:
    """Return the installed exporters that need no settings, each with a line on requirements that are missing, or ""."""
    missing = {}
    for name in entries_by_name("exporter"):
        try:
            loaded = load("exporter", name, Path.cwd(), print_line)
            loaded.cls.Config()
            missing[name] = missing_extra(loaded.distribution, loaded.cls.extra)
        except pydantic.ValidationError:  # it needs settings: a recipe names it
            continue
        except KdtoolError as error:
            print_line(f"models that only the exporter {name!r} opens cannot be measured: {error}")
    return missing
