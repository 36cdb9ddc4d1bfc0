"""Exports: the trained student in the formats that the recipe names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._contract.models import Artifact
from kdtool._contract.training import RunInfo
from kdtool._errors import PluginError
from kdtool._run.context import Context, Stage
from kdtool._run.fingerprint import fingerprint
from kdtool._run.results import ArmResult

__all__ = ["export"]

_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)
_FILE = "artifact.json"


def export(context: Context, arm: ArmResult, trained: str) -> tuple[Artifact, ...]:
    """Write the arm's model with every exporter; `trained` is the fingerprint of the last phase."""
    found = []
    for name in context.assembly.named("exporter"):
        stage = Stage("exports", name.rpartition(".")[2], arm.arm, arm.seed)

        def build(run: RunInfo, folder: Path, name: str = name) -> None:
            artifact = run.hook.kdtool_export.of(name)(run, arm.path)
            if artifact is None:
                raise PluginError(f"{run.hook.owner(name)} exported nothing")
            relative = replace(artifact, path=artifact.path.relative_to(folder))
            (folder / _FILE).write_bytes(_ARTIFACT.dump_json(relative, indent=1))

        print_of = fingerprint("export", exporter=context.part(name), trained=trained)
        artefact = context.make(context.own, stage, print_of, build)
        artifact = _ARTIFACT.validate_json((artefact.path / _FILE).read_bytes())
        path = artefact.path / artifact.path
        found.append(replace(artifact, path=path, how_to_use=artifact.how_to_use.replace("{path}", str(path))))
    return tuple(found)
