"""Exports: the trained student in the formats that the recipe names."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._contract.evaluation import Artifact
from kdtool._contract.exporter import Exporter
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError
from kdtool._results.model_cards import card_of
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node
from kdtool._run.stages.phases import TrainedModel
from kdtool._store.artefacts import check_file

_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)
_FILE = "artifact.json"


def add_exports(context: Context, graph: Graph, trained: TrainedModel, texts: Node) -> dict[str, Node]:
    """Add the files that every exporter writes of a trained model, by the exporter."""
    return {name: _add_export(context, graph, name, trained, texts) for name in context.assembly.of_kind("exporter")}


def read_artifact(node: Node) -> Artifact:
    """Return the description of exported files; the node is made."""
    artifact = _ARTIFACT.validate_json(check_file(node.path, _FILE).read_bytes())
    path = node.path / artifact.path
    return replace(artifact, path=path, how_to_use=artifact.how_to_use.replace("{path}", str(path)))


def _add_export(context: Context, graph: Graph, name: str, trained: TrainedModel, texts: Node) -> Node:
    def build(run: RunInfo, folder: Path) -> None:
        artifact = run.component(name, Exporter).kdtool_export(run, trained.model)
        owner = run.hook.owner(name)
        if not (artifact.path.is_relative_to(folder) and artifact.path.exists()):
            raise PluginError(f"{owner} returned {artifact.path}; expected an existing file or folder below {folder}")
        if artifact.card and card_of(artifact).exists():
            raise PluginError(f"{owner} returned a card and also wrote {card_of(artifact)}; do one of both")
        relative = replace(artifact, path=artifact.path.relative_to(folder))
        (folder / _FILE).write_bytes(_ARTIFACT.dump_json(relative, indent=1))

    label = name.rpartition(".")[2]
    parts = {"exporter": context.part(name), "licences": [asdict(licensed) for licensed in context.licences]}
    inputs = {"model": trained.nodes[-1], "texts": texts}
    node = Node("exports", label, f"export as {label}", context.own, parts, inputs, build, texts=texts)
    return graph.add(replace(node, arm=trained.arm, seed=trained.seed))
