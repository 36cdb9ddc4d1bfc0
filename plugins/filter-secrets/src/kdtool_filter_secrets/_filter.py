"""The filter `secrets`: looks for secrets in every part of an example."""

from __future__ import annotations

from collections.abc import Sequence

import kdtool

from kdtool_filter_secrets._rules import find_secret

__all__ = ["SecretsFilter"]


class SecretsFilter(kdtool.Filter):
    """Rejects examples with a key, token or password in a published format, or a random value with such a name."""

    class Config(kdtool.Config):
        """No settings."""

    config: Config

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the type of the first secret in an example, or None; the secret itself is never returned."""
        return [self._filter(example.body) for example in examples]

    def _filter(self, body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> str | None:
        rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
        return find_secret("\n".join((*kdtool.parts_of(body), *rejected)))
