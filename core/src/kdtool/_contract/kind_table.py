"""The kinds of component: what is known of each before its class is imported. A new kind is a class and a line here.

The table stands apart from the classes so that listing plugins imports neither them nor pydantic.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Kind(NamedTuple):
    """A kind: its base class as `module:Class`, and its key in recipes.

    `scope` is the part of a recipe that lists components: a "phase", the top level for a "run", or either of them for a
    "source". `single`: the key holds one component, not a map of named ones. `keys` are the core's own keys of an entry,
    in addition to the settings. `forms` are the classes of which a component extends one, if not the base.
    `shows`: components show a run and never change it; where a recipe does not have the key, the default plugin is used.
    """

    name: str
    base: str
    key: str
    scope: Literal["source", "run", "phase"]
    single: bool = False
    keys: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    shows: bool = False

    @property
    def group(self) -> str:
        """The group of its entry points: a plural, which is also the key of a map of components."""
        return f"kdtool.{self.name}s" if self.single else f"kdtool.{self.key}"


TABLE: tuple[Kind, ...] = (
    Kind("corpus", "kdtool._contract.sources:Corpus", "corpora", "source", keys=("share",)),
    Kind("filter", "kdtool._contract.sources:Filter", "filters", "source"),
    Kind("packer", "kdtool._contract.sources:Packer", "rows", "source", single=True),
    Kind("teacher", "kdtool._contract.sources:Teacher", "teachers", "source"),
    Kind("cache", "kdtool._contract.sources:Cache", "signals", "source", single=True),
    Kind("student", "kdtool._contract.training:Student", "student", "run", single=True),
    Kind("transform", "kdtool._contract.training:Transform", "transforms", "phase"),
    Kind(
        "loss",
        "kdtool._contract.loss:Loss",
        "losses",
        "phase",
        keys=("weight", "teacher"),
        forms=("kdtool._contract.loss:TokenLoss", "kdtool._contract.loss:SequenceLoss"),
    ),
    Kind("weighting", "kdtool._contract.loss:Weighting", "weightings", "phase"),
    Kind("trainer", "kdtool._contract.training:Trainer", "trainer", "phase", single=True),
    Kind("optimizer", "kdtool._contract.training:Optimizer", "optimizer", "phase", single=True),
    Kind("evaluator", "kdtool._contract.evaluation:Evaluator", "evaluators", "run"),
    Kind("exporter", "kdtool._contract.reporting:Exporter", "exporters", "run"),
    Kind("tracker", "kdtool._contract.reporting:Tracker", "trackers", "run", keys=("required",), shows=True),
    Kind("executor", "kdtool._contract.executor:Executor", "executor", "run", single=True),
    Kind("reporter", "kdtool._contract.reporting:Reporter", "reporter", "run", single=True, shows=True),
)
"""All kinds, in the order in which they are listed and in which a recipe's components are registered."""


def reserved_keys() -> frozenset[str]:
    """Return the core's own keys of components' entries: a `Config` must not have fields of these names."""
    of_phases = [kind.key for kind in TABLE if kind.scope == "phase"]
    return frozenset({"use", "steps", *of_phases}).union(*(kind.keys for kind in TABLE))
