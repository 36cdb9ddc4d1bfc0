"""Set up kdtool from a clone, with nothing but Python and pip, and run the quickstart or the tests.

    python bootstrap.py quickstart    makes .venv, installs what the quickstart needs, runs the recipe quickstart with as
                                      many steps as fit into ten minutes here
    python bootstrap.py everything    installs every package into .venv
    python bootstrap.py benchmarks    makes .venv-benchmarks with every package and what benchmarks/ needs
    python bootstrap.py test          makes .venv, installs tox, tests what changed, the core and whole runs
    python bootstrap.py test -m ci    all checks and tests, as CI runs them (CONTRIBUTING.md has more)

Everything can come from your configured package index. Versions and hashes of third-party packages are those of locks/,
except for PyTorch, whose version is in constraints.txt. With --unlocked, the newest versions are installed, without hashes.
A second call finds what the first installed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BENCHMARKS = ROOT / ".venv-benchmarks"
LOCKS = ROOT / "locks"
CONSTRAINTS = ROOT / "constraints.txt"
RECIPE = "quickstart"
"""A recipe of the package kdtool-essentials."""
MINIMUM = (3, 11)
SIZES = """\
Downloads, unless pip has them in its cache:
  torch, transformers and what they need   0.4 GB (macOS, Windows, or a CPU build of torch on Linux)
                                           3 GB on Linux where pip finds only torch with CUDA
  the teacher (quickstart only)            93 MB from the package index, or 270 MB where its hub is reachable
Disk: 1.5 GB in .venv (6 GB with CUDA), 1.5 GB in the user's cache and in runs/.
"""
TRAINING_AND_MEASURING = 540.0
"""Seconds of the quickstart: ten minutes less a tenth, by which forecasts may be wrong."""
FEWEST_STEPS = 20


def main(arguments: list[str]) -> int:
    """Run the named job and return its exit code."""
    jobs = {"quickstart": quickstart, "everything": everything, "benchmarks": benchmarks, "test": test}
    if not arguments or {"-h", "--help"} & {*arguments} or arguments[0] == "help":
        print(__doc__)
        return 0
    if arguments[0] not in jobs:
        near = difflib.get_close_matches(arguments[0], jobs, 1, 0) or [*jobs]
        print(f"unknown job {arguments[0]!r}; did you mean {near[0]!r}? `python bootstrap.py --help` lists the jobs")
        return 2
    if sys.version_info < MINIMUM:
        print(f"kdtool needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}")
        return 2
    return jobs[arguments[0]](arguments[1:])


def quickstart(arguments: list[str]) -> int:
    """Install what the quickstart needs and run it; further arguments go to `kdtool run`."""
    arguments, locked = _without_flag(arguments)
    _install_packages(ENVIRONMENT, needed_by("kdtool[quickstart]"), "quickstart", locked=locked)
    settings = [word for setting in _settings_for_time(arguments) for word in ("--set", setting)]
    code = subprocess.call([_script(ENVIRONMENT, "kdtool"), "run", RECIPE, *settings, *arguments])
    print(f"\nTo have `kdtool` in this terminal, paste:\n\n    {_activation(ENVIRONMENT)}\n", flush=True)
    return code


def _activation(environment: Path) -> str:
    """Return the command by which a shell finds the programs of an environment."""
    if os.name == "nt":
        return f'& "{environment / "Scripts" / "Activate.ps1"}"'
    return f"source {shlex.quote(str(environment / 'bin' / 'activate'))}"


def _settings_for_time(arguments: Sequence[str]) -> list[str]:
    """Return settings with which the quickstart takes ten minutes here: once chosen they stay, so that a run resumes.

    None where the user sets steps or rows.
    """
    if any(re.match(r"(--set=)?(train\.steps|rows\.)", argument) for argument in arguments):
        return []
    kept = ENVIRONMENT / "kdtool-quickstart.json"
    if kept.exists():
        settings: list[str] = json.loads(kept.read_text(encoding="utf-8"))
        print(f"as chosen before: {' '.join(settings) or 'the whole recipe'} ({kept} has the choice)", flush=True)
        return settings
    print("measuring how fast this machine is …", flush=True)
    check: list[str | Path] = [_script(ENVIRONMENT, "kdtool"), "check", RECIPE, "--json"]
    found = subprocess.run(check, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if found.returncode != 0:  # the run says why
        return []
    settings, reason = choose_settings(json.loads(found.stdout))
    print(reason, flush=True)
    kept.write_text(json.dumps(settings), encoding="utf-8")
    return settings


def choose_settings(found: dict[str, Any]) -> tuple[list[str], str]:
    """Return settings with which the recipe ends within ten minutes, and the reason, by the findings of `kdtool check`.

    Measuring gets at most half of the time. Training is forecast; the other stages are counted in steps of student and
    control, as measured on two cores, and a fifth more for the GGUF file: 17 in all, 6 for a turn, 0.85 for a text and 0.3
    for a line.
    """
    forecast = found["forecast"]
    steps = forecast["steps"] // len(found["arms"])
    seconds = forecast["seconds"] / steps
    if not seconds:
        return [], "this machine's speed is unknown, so the whole recipe is run"
    configs = {part["use"]: part["config"] for part in found["components"]}
    texts, turns = configs["perplexity"]["limit"], configs["efficiency"]["turns"]
    lines, places = (configs["line-completion"][key] for key in ("limit", "places"))
    time, items, settings = TRAINING_AND_MEASURING / seconds, 0.85 * texts + 0.3 * lines * places, []
    if 17 + 6 * turns + items > time / 2:
        share = min(1.0, max(0.0, (time / 2 - 23) / items))
        texts, lines, turns = min(texts, max(8, int(share * texts))), min(lines, max(4, int(share * lines))), 1
        items = 0.85 * texts + 0.3 * lines * places
        settings = [
            f"evaluators.perplexity.limit={texts}",
            f"evaluators.line-completion.limit={lines}",
            f"evaluators.efficiency.turns={turns}",
        ]
    others = 17 + 6 * turns + items
    chosen = min(steps, max(FEWEST_STEPS, int(time - others)))
    if chosen < steps:
        settings.insert(0, f"train.steps={chosen}")
    minutes = (chosen + others) * seconds / 60
    reason = f"{forecast['speed']}: {seconds:.2g} s for a step of student and control together.\nThe run takes about "
    if not settings:
        return [], f"{reason}{minutes:.0f} min with the whole recipe"
    whole = f"python bootstrap.py quickstart --set train.steps={steps}"
    return settings, f"{reason}{minutes:.0f} min with {' '.join(settings)}.\nThe whole recipe: {whole}"


def everything(arguments: list[str]) -> int:
    """Install every package."""
    _, locked = _without_flag(arguments)
    _install_packages(ENVIRONMENT, needed_by("kdtool[all]"), "everything", locked=locked)
    print(f"\nTo have `kdtool` in this terminal, paste:\n\n    {_activation(ENVIRONMENT)}\n", flush=True)
    return 0


def benchmarks(arguments: list[str]) -> int:
    """Install every package and the requirements of the benchmarks into a separate environment."""
    _, locked = _without_flag(arguments)
    _install_packages(BENCHMARKS, needed_by("kdtool[all]"), "benchmarks", benchmark_requirements(), locked=locked)
    print(f"run benchmarks with {_script(BENCHMARKS, 'python')}")
    return 0


def test(arguments: list[str]) -> int:
    """Install tox and run the tests; further arguments go to tox."""
    arguments, locked = _without_flag(arguments)
    if not _script(ENVIRONMENT, "tox").exists():
        print(SIZES, flush=True)
        _make_environment(ENVIRONMENT)
        _install_third_party(ENVIRONMENT, "tox", _declared(ROOT)["dependency-groups"]["tox"], locked=locked)
    settings = {**os.environ}
    if "UV_FIND_LINKS" not in settings and "PIP_FIND_LINKS" in settings:  # uv does not read pip's settings
        settings["UV_FIND_LINKS"] = ",".join(settings["PIP_FIND_LINKS"].split())
    command: list[str | Path] = [_script(ENVIRONMENT, "tox"), "run", *(arguments or ["-e", "test"])]
    return subprocess.call(command, cwd=ROOT, env=settings)


def packages() -> list[Path]:
    """Return the folders of all packages, the core first."""
    return [
        path.parent for pattern in ("core", "testing", "*/*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


def needed_by(requirement: str) -> dict[Path, dict[str, str]]:
    """Return the folders of the packages that a requirement such as `kdtool[quickstart]` needs here, the core first.

    Each with its extras that are needed, "" for its own requirements, and the marker under which they are.
    """
    declared = {_declared(folder)["project"]["name"]: folder for folder in packages()}
    needed: dict[tuple[str, str], str] = {}
    waiting = [(requirement, "")]
    while waiting:
        text, marker = waiting.pop()
        text, _, own = text.partition(";")
        marker = marker or own.strip()
        name, *extras = re.findall(r"[\w.-]+", re.split(r"[<>=!~ ]", text, maxsplit=1)[0])
        for extra in ("", *extras) if name in declared else ():
            before = needed.get((name, extra))
            if before is None or (before and not marker):
                needed[name, extra] = marker
                project = _declared(declared[name])["project"]
                wanted = project["optional-dependencies"][extra] if extra else project.get("dependencies", [])
                waiting += [(each, marker) for each in wanted]
    markers = {name: {extra: marker for (owner, extra), marker in needed.items() if owner == name} for name in declared}
    return {folder: markers[name] for name, folder in declared.items() if markers[name]}


def third_party(needed: Mapping[Path, Mapping[str, str]]) -> list[str]:
    """Return the requirements, of others, of packages with some extras, and of building them."""
    found: set[str] = set()
    for folder, extras in needed.items():
        declared = _declared(folder)
        found.update(declared["build-system"]["requires"])
        for extra, marker in extras.items():
            project = declared["project"]
            wanted = project["optional-dependencies"][extra] if extra else project.get("dependencies", [])
            found.update(f"{each}; {marker}" if marker and ";" not in each else each for each in wanted)
    return sorted(requirement for requirement in found if not requirement.startswith("kdtool"))


def benchmark_requirements() -> list[str]:
    """Return the requirements of the benchmarks beside those of the packages."""
    lines = (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _declared(folder: Path) -> dict[str, Any]:
    import tomllib  # Python 3.11; main refuses older ones

    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _without_flag(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments without --unlocked, and whether it was missing."""
    return [argument for argument in arguments if argument != "--unlocked"], "--unlocked" not in arguments


def _install_packages(
    environment: Path, needed: Mapping[Path, Mapping[str, str]], lock: str, further: Sequence[str] = (), *, locked: bool
) -> None:
    """Install packages of this repository and their requirements, unless this very code is installed."""
    stamp = environment / "kdtool-installed.json"
    before = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}
    now = {folder.relative_to(ROOT).as_posix(): _state(folder) for folder in needed}
    lock_state = {f"locks/{lock}": hashlib.sha256((LOCKS / f"{lock}.txt").read_bytes()).hexdigest()}
    if {**now, **lock_state}.items() <= before.items():
        return
    print(SIZES, flush=True)
    _make_environment(environment)
    _install_third_party(environment, lock, [*third_party(needed), *further], locked=locked)
    changed = [ROOT / name for name in now if before.get(name) != now[name]]
    if changed:  # the version is the same, so pip must be told that the code is not
        _install(environment, "--no-build-isolation", "--no-deps", "--force-reinstall", *changed)
    stamp.write_text(json.dumps({**before, **now, **lock_state}), encoding="utf-8")


def _install_third_party(environment: Path, lock: str, wanted: Sequence[str], *, locked: bool) -> None:
    """Install files whose hashes are in the lock, and PyTorch's by version; all by version if not `locked`."""
    if locked:
        _install(environment, "--no-deps", "--require-hashes", "--requirement", LOCKS / f"{lock}.txt")
        wanted = [requirement for requirement in wanted if requirement.startswith("torch")]
    else:
        print(
            "--unlocked: installing the newest versions that constraints.txt allows, without checking hashes",
            flush=True,
        )
    if wanted:
        _install(environment, "--constraint", CONSTRAINTS, *wanted)


def _state(folder: Path) -> str:
    """Name the sources of a package: another name means that they changed."""
    digest = hashlib.sha256((ROOT / "VERSION").read_bytes())
    for path in sorted((folder / "pyproject.toml", *(folder / "src").rglob("*"))):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _make_environment(environment: Path) -> None:
    if not _script(environment, "python").exists():
        venv.create(environment, with_pip=True)


def _install(environment: Path, *what: str | Path) -> None:
    if subprocess.call([_script(environment, "python"), "-m", "pip", "install", *what]) != 0:
        sys.exit(
            "pip could not install what is needed; its last lines say why. If your package index lacks the versions or "
            "files of locks/, the option --unlocked installs the newest versions instead, without checking hashes"
        )


def _script(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
