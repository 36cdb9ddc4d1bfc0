"""The corpus `python-source`: Python files of the interpreter's own standard library, or of a folder.

Hand-written source files become examples, each one or several. Hashes of a file's path determine its position and its
split. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_essentials.python_source.pairs import Form

__all__ = ["PythonSource"]
_NOTHING: Mapping[str, str] = {}


class PythonSource(kdtool.Corpus):
    """One example for each Python file, or for each of its documented functions and explained snippets (`forms`).

    The id begins with the path below the folder. This path determines the split, so all examples of a file are in one split.

    Generated files, files whose name or text is not UTF-8, and further copies of a file are left out, and from the standard
    library also tests, tables and demonstrations. The order is shuffled, so the first files are a fair sample of all.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `python-source`."""

        folder: kdtool.RecipePath | None = kdtool.Field(
            default=None, json_schema_extra=kdtool.does_not_affect_results()
        )
        """Folder to read, relative to the recipe; null reads the interpreter's standard library."""
        forms: tuple[Form, ...] = kdtool.Field(default=("file",), min_length=1)
        """Examples to make from a file: `file` is the whole file as plain text. `implement` asks for function bodies, given
        signature and documentation; `document` for documentation, given code. `explain` asks for comments on lines of code;
        `repair` for a function, given one with a token swapped."""
        licence: str = ""
        """SPDX expression for the files of `folder`; the standard library's is known."""
        minimum_bytes: int = kdtool.Field(default=200, ge=0)
        """Smaller files are left out."""
        maximum_bytes: int = kdtool.Field(default=200_000, ge=1)
        """Larger files are left out: they are mostly tables."""
        validation_share: float = kdtool.Field(default=0.05, ge=0, le=0.5)
        """Share of files for choosing settings."""
        test_share: float = kdtool.Field(default=0.1, ge=0, le=0.49)
        """Share of files for scoring at the end."""
        train_files: int | None = kdtool.Field(default=None, ge=1)
        """Maximum number of training files; null uses all."""
        validation_files: int | None = kdtool.Field(default=None, ge=1)
        """Maximum number of validation files; null uses all."""
        test_files: int | None = kdtool.Field(default=None, ge=1)
        """Maximum number of test files; null uses all."""
        seed: int = kdtool.Field(default=0, ge=0)
        """Seed of the shuffle, which determines the files that a limit keeps. It never changes the split."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._source_files: tuple[SourceFile, ...] | None = None
        self._unread: list[str] = []

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return a hash over the files' paths and contents."""
        lines = "".join(f"{file.digest} {file.id}\n" for file in self._files())
        return {"files": hashlib.sha256(lines.encode("utf-8")).hexdigest()}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report a missing folder."""
        folder = self.config.folder
        return [f"folder: no such folder: {folder.absolute()}"] if folder is not None and not folder.is_dir() else []

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        """Return the licence of the standard library; None for a folder, whose licence only the user knows."""
        if self.config.folder is not None:
            return None
        return kdtool.LicenceTerms("Python-2.0", "https://docs.python.org/3/license.html")

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the examples, shuffled, up to the limits of their splits.

        Messages report the number of unreadable files, and any splits that stay empty because there are few files.

        Raises:
            kdtool.UsageError: the folder does not exist, or no file in it qualifies.
            kdtool.StorageError: a file changed after the run began.
        """
        config = self.config
        limits: dict[kdtool.Split, int | None] = {
            "train": config.train_files,
            "validation": config.validation_files,
            "test": config.test_files,
        }
        taken: Counter[kdtool.Split] = Counter()
        for file in sorted(self._files(), key=lambda file: _number(f"order {config.seed} {file.id}")):
            split = self._split(file.id)
            limit = limits[split]
            if limit is None or taken[split] < limit:
                taken[split] += 1
                yield from self._examples(file, split)
        if self._unread:
            run.say(
                f"python-source: left out {kdtool.count_of(len(self._unread), 'file')} that cannot be read, or with a name "
                f"or text that is not UTF-8, such as {self._unread[0]!r}"
            )
        shares: dict[kdtool.Split, float] = {"validation": config.validation_share, "test": config.test_share}
        for missed, share in shares.items():
            if share and not taken[missed]:
                run.say(f"python-source: no file of {len(self._files()):,} is for {missed}; raise {missed}_share")

    def _files(self) -> tuple[SourceFile, ...]:
        if self._source_files is None:
            config = self.config
            folder = config.folder or Path(sysconfig.get_path("stdlib"))
            skipped = frozenset() if config.folder else NOT_FOR_LEARNING
            sizes = config.minimum_bytes, config.maximum_bytes
            self._source_files = tuple(find_files(folder, *sizes, skipped, self._unread))
        return self._source_files

    def _split(self, identifier: str) -> kdtool.Split:
        fraction = _number(f"split {identifier}") / 2**64
        if fraction < self.config.test_share:
            return "test"
        return "validation" if fraction < self.config.test_share + self.config.validation_share else "train"

    def _examples(self, file: SourceFile, split: kdtool.Split) -> Iterator[kdtool.Example]:
        from kdtool_essentials.python_source.pairs import pairs_of

        text, forms = file.text(), self.config.forms
        if "file" in forms:
            yield self._example(file.id, kdtool.Text(text), split)
        pairs = pairs_of(text, [form for form in forms if form != "file"]) if set(forms) != {"file"} else ()
        for pair in pairs:
            body = kdtool.Completion(pair.prompt, pair.completion)
            about = {"form": pair.form, **({"name": pair.name} if pair.name else {})}
            yield self._example(f"{file.id}#{pair.form}:{pair.line}", body, split, about)

    def _example(
        self,
        identifier: str,
        body: kdtool.Text | kdtool.Completion,
        split: kdtool.Split,
        about: Mapping[str, str] = _NOTHING,
    ) -> kdtool.Example:
        is_stdlib = self.config.folder is None
        return kdtool.Example(
            id=identifier,
            body=body,
            split=split,
            language="python",
            licence="Python-2.0" if is_stdlib else self.config.licence,
            source="Python standard library" if is_stdlib else "folder",
            meta=about,
        )


def _number(text: str) -> int:
    """Return a hash of `text` of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


NOT_OF_THE_PROJECT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders that are never read, in addition to those whose name begins with a dot."""
NOT_FOR_LEARNING = frozenset(
    {
        *("test", "tests", "idle_test"),  # they repeat what they test
        *("encodings", "pydoc_data", "_bundled"),  # tables
        *("idlelib", "lib2to3", "turtledemo", "__phello__"),  # applications and demonstrations
    }
)
"""Further folders of the standard library that are left out."""
GENERATED = re.compile(
    r"auto-?generated|automatically generated|generated (from|by|and used by)|do not edit", re.IGNORECASE
)
"""Matches near the start of generated files."""


@dataclass(frozen=True)
class SourceFile:
    """A file: its path below the folder with slashes, its location, and the SHA-256 of its text."""

    id: str
    path: Path
    digest: str

    def text(self) -> str:
        """Return the text, lines ended by a line feed.

        Raises:
            kdtool.StorageError: the file has changed since it was found.
        """
        text = _read_file(self.path)
        if text is None or _digest(text) != self.digest:
            raise kdtool.StorageError(f"{self.path} changed while the run was reading it; start the run again")
        return text


def find_files(
    folder: Path, minimum_bytes: int, maximum_bytes: int, skipped: frozenset[str], unread: list[str]
) -> Iterator[SourceFile]:
    """Yield the files that qualify, sorted by id: the first of several with the same text, and none below a `skipped` name.

    Ids of files that cannot be read, or whose name or text is not UTF-8, are appended to `unread`.

    Raises:
        kdtool.UsageError: the folder does not exist, or no file in it qualifies.
    """
    if not folder.is_dir():
        raise kdtool.UsageError(
            f"python-source.folder: {folder} is not a directory; name one that contains Python files"
        )
    seen: set[str] = set()
    for identifier, path in sorted((path.relative_to(folder).as_posix(), path) for path in folder.glob("**/*.py")):
        if (
            _is_skipped(identifier, skipped)
            or not path.is_file()
            or not minimum_bytes <= path.stat().st_size <= maximum_bytes
        ):
            continue
        text = _read_file(path) if _is_text(identifier) else None
        if text is None:
            unread.append(identifier)
            continue
        if GENERATED.search(text, 0, 1000):
            continue
        digest = _digest(text)
        if digest not in seen:
            seen.add(digest)
            yield SourceFile(identifier, path, digest)
    if not seen:
        raise kdtool.UsageError(
            f"python-source: no Python file below {folder} has {minimum_bytes} to {maximum_bytes} bytes; "
            "set folder, minimum_bytes or maximum_bytes"
        )


def _is_skipped(identifier: str, skipped: frozenset[str]) -> bool:
    return any(part in NOT_OF_THE_PROJECT or part in skipped or part.startswith(".") for part in identifier.split("/"))


def _is_text(name: str) -> bool:
    """Return whether a name is UTF-8: Python decodes others with unpaired surrogates, which cannot be stored."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_file(path: Path) -> str | None:
    """Return a file's text with the parser's line ends, CR LF, CR and LF, as LF; None if it cannot be read as UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
