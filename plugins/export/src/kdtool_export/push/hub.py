"""The upload: one commit with every file, so that a repository holds a whole model or none.

`create_commit` first uploads the content of large files, which no branch shows, and then makes one commit. A killed
upload is continued by the same call: the Hub keeps uploaded content. `upload_folder` would make several commits, each
with a part of the model.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_export.push.publication import RECORD, Publication

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = (
    "no token of the Hub is set; publishing needs one with the right to write: create it at "
    "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN"
)
_LOCAL = {errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EIO}
"""Errors of this machine's disk; others are of the network."""
_OWN = {RECORD, ".gitattributes"}


@dataclass(frozen=True)
class Pushed:
    """A published repository: its address, its commit, and whether the commit is new."""

    url: str
    commit: str
    changed: bool


def upload(publication: Publication, *, public: bool = False, branch: str = "main", replace: bool = False) -> Pushed:
    """Create the repository if it is missing, and commit all files to a branch at once.

    Args:
        publication: what to upload.
        public: everyone may see the repository. A public repository is refused without it.
        branch: the branch to commit to; a missing one is created from `main`.
        replace: also commit to a repository that holds files which did not come from this run.

    Raises:
        AuthenticationError: the token is missing, wrong, or not allowed to write.
        UsageError: the repository holds other files, or is public.
        ServiceError: the Hub cannot be reached or failed; the same call continues.
        StorageError: a file cannot be read.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    token = get_token()
    if not token:
        raise kdtool.AuthenticationError(_LOGIN)
    api = HfApi(token=token, library_name="kdtool")
    kind = "space" if publication.is_space else "model"
    with _explain(publication.repository("OWNER"), token):
        repository = publication.repository("") if publication.owner else publication.repository(api.whoami()["name"])
        sdk = "static" if publication.is_space else None
        api.create_repo(repository, private=not public, exist_ok=True, repo_type=kind, space_sdk=sdk)
        if branch != "main":
            api.create_branch(repository, branch=branch, exist_ok=True, repo_type=kind)
        before = (api.space_info if publication.is_space else api.model_info)(repository, revision=branch)
        if not public and before.private is False:
            raise kdtool.UsageError(f"{repository} is public; add --public to publish there, or choose another --to")
        there = {file.rfilename for file in before.siblings or ()}
        earlier = _earlier(api, repository, kind, before.sha, there, publication.results.name)
        others = sorted(there - earlier - _OWN)
        if others and not replace:
            raise kdtool.UsageError(
                f"--to: {repository} holds files that are not from the run {publication.results.name!r}, such as "
                f"{others[0]}; choose another name, or add --replace to overwrite files of the same name"
            )
        content = publication.content(repository.partition("/")[0])
        items = {path: item if isinstance(item, bytes) else str(item) for path, item in content.items()}
        gone = sorted(earlier & there - content.keys())
        commit = api.create_commit(
            repository,
            [*(CommitOperationAdd(*entry) for entry in items.items()), *map(CommitOperationDelete, gone)],
            commit_message=f"Publish {publication.name} from the run {publication.results.name}",
            revision=branch,
            repo_type=kind,
            parent_commit=before.sha,
        )
    shown = "" if branch == "main" else f"/tree/{branch}"
    below = "spaces/" if publication.is_space else ""
    return Pushed(f"{api.endpoint}/{below}{repository}{shown}", commit.oid, commit.oid != before.sha)


def _earlier(api: HfApi, repository: str, kind: str, revision: str | None, there: set[str], run: str) -> set[str]:
    """Return the files that an earlier push of this run put there."""
    if RECORD not in there:
        return set()
    path = api.hf_hub_download(repository, RECORD, revision=revision, repo_type=kind)
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    return set(record["files"]) if record.get("run") == run else set()


@contextmanager
def _explain(repository: str, token: str) -> Iterator[None]:
    """Raise errors of the Hub as those of kdtool, without the token in their text."""
    try:
        yield
    except kdtool.KdtoolError:
        raise
    except Exception as error:
        raise _translate(error, repository, token) or error from None


def _translate(error: Exception, repository: str, token: str) -> kdtool.KdtoolError | None:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    causes = list(_causes(error))
    answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    status = answer.response.status_code if answer is not None else 0
    message = _first_line(answer or causes[-1]).replace(token, "[token]")
    again = "what is uploaded is kept, and the same command continues"
    if status == 401:
        return kdtool.AuthenticationError(
            f"the Hub does not accept the token: {message}; log in again with `hf auth login`"
        )
    if status in (403, 404):
        return kdtool.AuthenticationError(
            f"the token may not write to {repository}: {message}; use a token with the right to write there, or another "
            "--to owner/name"
        )
    if status in (409, 412):
        return kdtool.UsageError(f"{repository} was changed meanwhile: {message}; run the same command again")
    if status == 400:
        return kdtool.UsageError(f"the Hub refuses the content of {repository}: {message}; see its documentation")
    if local := next((cause for cause in causes if isinstance(cause, OSError) and cause.errno in _LOCAL), None):
        return kdtool.StorageError(
            f"a file cannot be read or written: {local}; make room or export it again, then {again}"
        )
    if status or isinstance(error, HTTPError | OSError | RuntimeError):
        return kdtool.ServiceError(f"the Hub cannot be reached or failed: {message}; {again}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
