"""Mutated plugin packages: metadata, entry points, classes, settings and signatures as authors get them wrong."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent

from hypothesis import strategies as st
from kdtool._plugins.hook_specs import SPECS


@dataclass(frozen=True)
class Package:
    """A distribution `name` with one module of that name in snake case, which should bring a component `kind` `name`."""

    name: str
    kind: str
    entry_points: str
    metadata: str
    source: str


KINDS = {
    "loss": ("TokenLoss", "losses", "def kdtool_token_loss(self, chunk):\n    return chunk"),
    "teacher": ("Teacher", "teachers", "def kdtool_tokenizer(self, run):\n    return toy.Bytes()"),
    "corpus": (
        "Corpus",
        "corpora",
        "def kdtool_examples(self, run):\n    for n in range(9):\n"
        "        yield kdtool.Example(str(n), kdtool.Text('word ' * 20), 'test' if n % 3 == 0 else 'train')",
    ),
    "tracker": ("Tracker", "trackers", "def kdtool_message(self, run, text):\n    pass"),
    "evaluator": ("Evaluator", "evaluators", "def kdtool_evaluate(self, run, subjects):\n    return iter(())"),
}
"""Base class, group and a good hook of the kinds that are mutated."""
BASES = (
    "object", "kdtool.Component", "kdtool.TokenLoss, kdtool.Teacher", "Exception", "kdtool.{base}, metaclass=Odd",
    "kdtool.{base}, abc.ABC", "kdtool.{base}, Generic[T]", "kdtool.Config", "enum.Enum", "kdtool.Corpus",
)  # fmt: skip
IN_PLACE_OF_A_CLASS = (
    "X = 3", "X = kdtool", "def X(config): return config", "X = kdtool.TokenLoss", "X = kdtool.Component",
    "X = list[int]", "", "def __getattr__(name): raise ValueError(name)", "X = Odd('X', (), {})",
    "X = functools.partial(kdtool.TokenLoss)",
)  # fmt: skip
AT_IMPORT = (
    "raise ValueError('no')", "import sys; sys.exit(0)", "import nothing_of_that_name", "raise BaseException",
    "print('hello')", "def broken(:", "x = '\\ud800'", "raise RecursionError", "raise MemoryError",
    "raise kdtool.BudgetError('no')", "raise ExceptionGroup('many', [ValueError()])", "raise kdtool.RecipeError([])",
    "raise Mute", "kdtool.Loss.extra = 1; del kdtool.Loss.extra",
)  # fmt: skip
ATTRIBUTES = (
    "needs = None", "needs = 'logits'", "needs = ({'logits'},)", "needs = (frozenset({'nothing'}),)",
    "needs = frozenset({'logits'})", "needs = property(lambda self: 1 / 0)", "offers = []", "offers = frozenset({3})",
    "offers = frozenset({'logits', 'nothing'})", "temperature = 'hot'", "temperature = float('nan')", "__slots__ = ()",
    "kdtool_token_loss = None", "kdtool_token_loss = 3", "kdtool_describe = staticmethod(print)",
    "kdtool_close = classmethod(lambda cls: None)", "kdtool_identity = property(lambda self: 1 / 0)",
    "kdtool_account = functools.partial(print)", "licence_terms = print", "kdtool_identity = Odd('X', (), {})",
    "__eq__ = lambda self, other: True", "__hash__ = None", "__getattr__ = lambda self, name: 1 / 0",
    "__module__ = None", "__getattribute__ = lambda self, name: object.__getattribute__(self, name)",
    "__bool__ = lambda self: 1 / 0",
)  # fmt: skip
CONFIGS = (
    "Config = None", "class Config: pass", "class Config(pydantic.BaseModel): pass",
    "Config = property(lambda self: 1 / 0)", "Config = kdtool.Config()",
    "class Config(kdtool.Config, frozen=False): pass", "class Config(kdtool.Config, extra='allow'): pass",
    "class Config(pydantic.RootModel[int]): pass", "class Config(kdtool.Config, Generic[T]): x: T = None",
)  # fmt: skip
FIELDS = (
    "weight: float = 1.0", "use: str = ''", "teacher: str = ''", "needed: int", "items: list[int] = []",
    "table: dict[str, list[int]] = {}", "again: 'Config | None' = None", "unknown: 'Nothing' = None",
    "code: typing.Callable[..., int] = print", "raw: bytes = b'\\xff'", "number: float = float('nan')",
    "anything: typing.Any = object()", "cls: type = int", "x: int = 'three'", "x: int = Field(3, gt=5)", "x = 3",
    "_private: int = 3", "x: int = Field(default_factory=lambda: 1 / 0)", "x: int = Field(alias='y')",
    "model_config: int = 3", "x: typing.Pattern = '('", "x: float = 1e400", "x: int = 10**5000", "x: str = '\\ud800'",
    "x: kdtool.Schedule = None", "x: int = Field(json_schema_extra=lambda schema: 1 / 0)",
    "x: int = Field(json_schema_extra=3)", "x: int = Field(3, description=4)", "x: Odd = None",
    "x: str = Field('a', pattern='(')", "x: typing.Annotated[int, kdtool.does_not_affect_results()] = 1",
    "y: int = Field(..., ge='a')",
)  # fmt: skip
RAISERS = (
    "ValueError('no')", "RecursionError()", "SystemExit(0)", "kdtool.BudgetError('no')", "AssertionError()",
    "MemoryError()", "BaseException()", "StopIteration()", "Mute()",
)  # fmt: skip
VALIDATORS = (
    *(f"{head}:\n    raise {{error}}" for head in (
        "@pydantic.model_validator(mode='{mode}')\ndef check(self_or_cls, *args)",
        "@pydantic.field_validator('*')\ndef check(cls, value)", "def model_post_init(self, context)",
        "def __init__(self, **given)", "@pydantic.model_serializer\ndef dump(self)", "def __repr__(self)",
        "@pydantic.computed_field\ndef late(self) -> int", "def model_dump(self, **given)",
        "@classmethod\ndef __get_pydantic_core_schema__(cls, source, handler)",
        "@classmethod\ndef __get_pydantic_json_schema__(cls, core, handler)",
        "@classmethod\ndef model_validate_json(cls, *args, **given)",
    )),
    "@classmethod\ndef model_validate_json(cls, *args, **given):\n    return 3",
)  # fmt: skip
METHODS = (
    *(f"def {head}:\n    raise {{error}}" for head in (
        "__init__(self, config)", "__new__(cls, config)", "__init_subclass__(cls)", "__getattr__(self, name)",
        "__repr__(self)", "__eq__(self, other)", "__hash__(self)", "__getattribute__(self, name)", "kdtool_close(self)",
    )),
    *(f"def {{hook}}{arguments}:\n    return None" for arguments in (
        "()", "(self)", "(self, *args)", "(self, run=3)", "(self, *, run)", "(self, run, /)", "(self, rum)", "s(self, run)",
        "(self, run: 'Nothing') -> 'Nothing'",
    )),
    *(f"def {{hook}}(self{{args}}):\n    {body}" for body in (
        "return 3", "return 'text'", "return [3]", "return {'a': 3}", "raise {error}", "return self", "yield 3",
        "return iter(())", "return Mute", "return toy.Unigram({}).facts", "run.say('a'); run.say(3)",
        "return run.hook.{hook}(run)", "run.stage = 3",
    )),
    "def __init__(self):\n    pass", "def __new__(cls, config):\n    return 3", "def kdtool_nothing(self):\n    pass",
    "async def {hook}(self{args}):\n    return 1", "@staticmethod\ndef {hook}(run):\n    return None",
    "@classmethod\ndef {hook}(cls, run):\n    return 1", "@property\ndef {hook}(self):\n    raise {error}",
    "@functools.cache\ndef {hook}(self{args}):\n    return None", "@plain\ndef {hook}(self{args}):\n    return None",
    "def kdtool_estimate(self, run, ahead):\n    return kdtool.Estimate(3)",
    "@property\ndef licence_terms(self):\n    return kdtool.LicenceTerms('MIT', restrictions='one')",
    "def kdtool_identity(self, run):\n    return {3: 3}",
)  # fmt: skip
HOOKS = ("kdtool_describe", "kdtool_identity", "kdtool_account", "kdtool_estimate", "kdtool_close", "kdtool_check")
OWN_HOOKS = {
    "loss": ("kdtool_token_loss", "kdtool_token_gradient"),
    "teacher": ("kdtool_tokenizer", "kdtool_signal", "kdtool_open"),
    "corpus": ("kdtool_examples",),
    "tracker": ("kdtool_run_start", "kdtool_stage_end", "kdtool_message", "kdtool_run_end", "kdtool_progress"),
    "evaluator": ("kdtool_evaluate",),
}
VALUES = (
    "{module}", "{module}:", ":X", "", "{module}:X.Y", "{module}:X Y", "{module}.sub:X", "{module}:X [extra]", "3:4",
    "{module}:__doc__", "os:system", "{module}\u00e9:X", "kdtool:Loss", "\u202e:X",
)  # fmt: skip
ENTRIES = (
    "{good}{good}", "[{group}]\n", "", "{name} = {module}:X\n", "[{group}\n{name} = {module}:X\n",
    "[{group}]\n{name}\n", "[]\n= \n", "[kdtool.nothing]\n{name} = {module}:X\n", "{good}[kdtool.loss]\na = b\n", "\0",
    "\ufeff{good}", "[{group}]\n{name} = {module}:X\n{name} = {module}:Y\n", "[{group}]\n{name} : {module}:X\n",
    "[{group}]\n\u00e9 = {module}:X\n", "[{group}]\n = {module}:X\n", "{good}\n[{group}]\nce = {module}:X\n",
)  # fmt: skip
METADATA = (
    "", "Name: {name}\n", "Version: 1.0\n", "Name: \nVersion: 1\n", "\0\1\2", "Name: {name}\nName: b\nVersion: 1\n",
    "Name: {name}\nVersion: 1.0\nRequires-Dist: ~~\n", "Name: {name}\nVersion: one\n", "Name: \u00e9\nVersion: 1\n",
    "Name: {name}\nVersion: 1.0\nRequires-Dist: kdtool>=7\n", "Name: kdtool\nVersion: 1.0\n",
)  # fmt: skip
HEAD = """\
import abc, enum, functools, typing
from pathlib import Path
from typing import Generic, TypeVar
import kdtool, pydantic
from kdtool import Field
import toy
T = TypeVar("T")

class Odd(type):
    def __dir__(cls): raise ValueError("odd")
    def __getattr__(cls, name): raise ValueError(name)
    def __eq__(cls, other): raise ValueError("odd")
    def __hash__(cls): raise ValueError("odd")

class Mute(Exception):
    def __str__(self): raise ValueError("mute")

def plain(function):
    return lambda *args, **given: function(*args, **given)

"""


_PLACES = ["base", "config", "class", "import", "value", "entries", "metadata", *["attribute", "validator"] * 2]
_PLACES += ["method"] * 6 + ["field"] * 3


@st.composite
def packages(draw: st.DrawFn, name: str) -> Package:
    """A package with one to three things wrong, or none."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    base, group, hook = KINDS[kind]
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "group": f"kdtool.{group}", "base": base}
    wrong = draw(st.lists(st.sampled_from(_PLACES), max_size=3))
    bases, attributes, config, body = f"kdtool.{base}", ["'A component.'"], [], [hook]
    fields = ["size: int = Field(3, ge=1)\n'How many.'"]
    attributes += [draw(st.sampled_from(ATTRIBUTES)) for _ in range(wrong.count("attribute"))]
    fields += [draw(st.sampled_from(FIELDS)) for _ in range(wrong.count("field"))]
    for _ in range(wrong.count("validator")):
        given = {"mode": draw(st.sampled_from(["before", "after", "wrap"])), "error": draw(st.sampled_from(RAISERS))}
        config.append(_filled(draw(st.sampled_from(VALIDATORS)), given))
    for _ in range(wrong.count("method")):
        called = draw(st.sampled_from([*HOOKS, *OWN_HOOKS[kind], *OWN_HOOKS[kind]]))
        words |= {"hook": called, "args": "".join(f", {name}" for name in SPECS[called].arguments)}
        body.append(_filled(draw(st.sampled_from(METHODS)), {**words, "error": draw(st.sampled_from(RAISERS))}))
    if "base" in wrong:
        bases = draw(st.sampled_from(BASES)).replace("{base}", base)
    settings = "class Config(kdtool.Config):\n" + indent("\n".join([*fields, *config]), "    ")
    if "config" in wrong:
        settings = draw(st.sampled_from(CONFIGS))
    members = "\n".join([*attributes, settings, *body])
    cls = f"class X({bases}):\n" + indent(members, "    ")
    if "class" in wrong:
        cls = draw(st.sampled_from(IN_PLACE_OF_A_CLASS))
    source = HEAD + (draw(st.sampled_from(AT_IMPORT)) + "\n" if "import" in wrong else "") + cls + "\n"
    value = draw(st.sampled_from(VALUES)) if "value" in wrong else "{module}:X"
    good = f"[{words['group']}]\n{name} = {value.replace('{module}', module)}\n"
    entries = draw(st.sampled_from(ENTRIES)) if "entries" in wrong else "{good}"
    about = draw(st.sampled_from(METADATA)) if "metadata" in wrong else "Name: {name}\nVersion: 1.0\n"
    words["good"] = good
    return Package(name, kind, _filled(entries, words), _filled(about, words), source)


def _filled(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(f"{{{word}}}", meaning)
    return text
