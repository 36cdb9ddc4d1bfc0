"""Teacher plugin `causal-lm`: any causal language model that transformers opens.

`CausalLM` says where the weights are; all else is `kdtool_transformers.CausalTeacher`.
"""

from __future__ import annotations

from pathlib import Path

import kdtool
from kdtool_transformers import CausalTeacher, CausalTeacherConfig, Source

__all__ = ["CausalLM"]


class CausalLM(CausalTeacher):
    """A causal language model from a folder, from the hub, or from a GGUF file."""

    class Config(CausalTeacherConfig):
        """Settings of the teacher `causal-lm`."""

        model: str = kdtool.Field(min_length=1)
        """A folder with config.json and safetensors, a hub name (owner/name), or the path of a .gguf file."""
        revision: str | None = None
        """Branch, tag or commit of a hub name. None: the newest; what it was is recorded with the run."""

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        path = Path(self.config.model).expanduser()
        if path.suffix.lower() == ".gguf":
            from kdtool_transformers import convert_gguf

            self._require_file(path)
            return Source(convert_gguf(path, print if run is None else run.say))
        from kdtool_transformers._open import resolve

        place = resolve(self.config.model)
        if isinstance(place, Path) and self.config.revision is not None:
            raise kdtool.UsageError(f"revision {self.config.revision!r} belongs to hub names; {place} is a folder")
        return Source(place, self.config.revision)

    def kdtool_acknowledge(self) -> kdtool.Terms | None:
        from kdtool_transformers import card_licence

        path = Path(self.config.model).expanduser()
        if path.is_dir():
            licence = card_licence(path)
        elif path.suffix.lower() == ".gguf" and path.is_file():
            from gguf import GGUFReader

            field = GGUFReader(path).get_field("general.license")
            licence = None if field is None else str(field.contents())
        else:
            return kdtool.Terms("as named on its model card", url=f"https://huggingface.co/{self.config.model}")
        return kdtool.Terms(licence) if licence else None

    def _require_file(self, path: Path) -> None:
        if not path.is_file():
            raise kdtool.UsageError(f"there is no file {path}; model: takes a folder, a hub name or a .gguf file")
