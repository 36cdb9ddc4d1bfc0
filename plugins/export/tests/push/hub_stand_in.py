"""A stand-in of the Hub's API on the loopback interface, as far as huggingface_hub uses it to publish and to download.

Large files go by the LFS protocol: start clients with HF_HUB_DISABLE_XET=1. Repositories are kept in memory, every branch as
a list of whole commits, so that tests see what a reader of each branch would have seen at any time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "standin0" * 4
LARGE = (".safetensors", ".gguf", ".onnx")


@dataclass
class Repository:
    """Branches with their commits, oldest first: files by path. The first commit is the one the Hub makes."""

    private: bool
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)

    def head(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return hash and files of a branch or commit."""
        for name, commits in self.branches.items():
            for number, files in reversed([*enumerate(commits)]):
                digest = hashlib.sha1(f"{name} {number}".encode(), usedforsecurity=False).hexdigest()
                if revision in (digest, name):
                    return digest, files
        return None


class Hub(AbstractContextManager["Hub"]):
    """The server. `answer` may return a status instead of the usual answer, by method and path."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.answer: Callable[[str, str], int | None] = lambda _, __: None
        hub = self

        class Handler(_Handler):
            stands_for = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        """Return the files of a branch without those that the Hub makes."""
        found = self.repositories[repository].head(branch)
        assert found is not None
        return {path: content for path, content in found[1].items() if path != ".gitattributes"}

    def uploads(self) -> int:
        """Return the number of large files that were sent."""
        return sum(method == "PUT" for method, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    stands_for: Hub
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        hub, path = self.stands_for, unquote(urlsplit(self.path).path)
        body = self._read()
        hub.requests.append((self.command, path))
        status = hub.answer(self.command, path)
        if status is not None:
            return self._send(status, {"error": "the stand-in was asked to fail"})
        if self.command == "PUT" and path.startswith("/lfs/"):
            content = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == content
            hub.contents[content] = body
            return self._send(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, body, *found.groups())
        return self._send(404, {"error": f"the stand-in does not know {self.command} {path}"})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815 - names of http.server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        error = {"X-Error-Message": data["error"]} if isinstance(data, dict) and "error" in data else {}
        for name, value in {**(headers or {}), **error}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(BrokenPipeError):  # of a client that was killed
                self.wfile.write(content)

    def whoami(self, _: bytes) -> None:
        self._send(200, {"name": "someone", "type": "user", "orgs": []})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        assert (wanted.get("type") == "space") == (wanted.get("sdk") == "static")
        name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        if name in self.stands_for.repositories:
            return self._send(
                409, {"error": "You already created this model repo", "url": f"{self.stands_for.url}/{name}"}
            )
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.stands_for.repositories[name] = Repository(private, {"main": [{".gitattributes": b"*.safetensors lfs\n"}]})
        self._send(200, {"url": f"{self.stands_for.url}/{name}", "name": name, "id": name})

    def info(self, _: bytes, name: str, revision: str | None = None) -> None:
        found = self._find(name, revision or "main")
        if found:
            siblings = [{"rfilename": path} for path in sorted(found[1])]
            private = self.stands_for.repositories[name].private
            self._send(200, {"id": name, "sha": found[0], "private": private, "siblings": siblings})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found:
            files = found[1].items()
            self._send(
                200, [{"type": "file", "path": path, "size": len(own), "oid": _blob(own)} for path, own in files]
            )

    def branch(self, _: bytes, name: str, branch: str) -> None:
        branches = self.stands_for.repositories[name].branches
        if branch in branches:
            return self._send(409, {"error": "Reference already exists"})
        branches[branch] = [branches["main"][-1]]
        self._send(200, {})

    def validate(self, body: bytes) -> None:
        """Check the metadata as the Hub does."""
        data = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        licence, wrong = re.compile(r"[a-z0-9][a-z0-9.-]*"), []
        wrong += [key for key in ("license", "license_name") if key in data and not licence.fullmatch(data[key])]
        names = data.get("base_model", [])
        names = names if isinstance(names, list) else [names]
        wrong += [f"base_model {one}" for one in names if not re.fullmatch(r"[\w.-]+/[\w.-]+", one)]
        wrong += [f"tag {one}" for one in data.get("tags", []) if not isinstance(one, str)]
        for model in data.get("model-index", []):
            for result in model["results"]:
                assert {"type"} <= result["task"].keys()
                assert {"type", "name"} <= result["dataset"].keys()
                assert all({"type", "value"} <= metric.keys() for metric in result["metrics"])
        errors = [{"message": f'"{one}" is not allowed'} for one in wrong]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found:
            there = found[1]
            modes = []
            for one in json.loads(body)["files"]:
                path = one["path"]
                large = path.endswith(LARGE)
                own = there.get(path)
                oid = None if own is None else hashlib.sha256(own).hexdigest() if large else _blob(own)
                modes.append(
                    {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
                )
            self._send(200, {"files": modes})

    def batch(self, body: bytes, _: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            put = {"upload": {"href": f"{self.stands_for.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(one if one["oid"] in self.stands_for.contents else {**one, "actions": put})
        self._send(200, {"transfer": "basic", "objects": objects})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if not found:
            return None
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit") not in (None, found[0]):
            return self._send(412, {"error": "A commit has happened since"})
        files = dict(found[1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stands_for.contents[value["oid"]]
            else:
                del files[value["path"]]
        self.stands_for.repositories[name].branches[revision].append(files)
        head = self.stands_for.repositories[name].head(revision)
        assert head is not None
        address = f"{self.stands_for.url}/{name}/commit/{head[0]}"
        return self._send(200, {"commitUrl": address, "commitOid": head[0], "success": True})

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found and path not in found[1]:
            return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        if found:
            own = found[1][path]
            self._send(200, own, {"ETag": f'"{_blob(own)}"', "X-Repo-Commit": found[0]})
        return None

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        known = self.stands_for.repositories.get(name)
        found = known.head(revision) if known else None
        if found is None:
            code = "RevisionNotFound" if known else "RepoNotFound"
            self._send(404, {"error": f"{name} is not there"}, {"X-Error-Code": code})
        return found


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (rf"GET /api/(?:models|spaces)/{_NAME}", _Handler.info),
    (rf"GET /api/(?:models|spaces)/{_NAME}/revision/(.+)", _Handler.info),
    (rf"GET /api/(?:models|spaces)/{_NAME}/tree/([^/]+)/?", _Handler.tree),
    (rf"POST /api/(?:models|spaces)/{_NAME}/branch/(.+)", _Handler.branch),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/(?:models|spaces)/{_NAME}/preupload/(.+)", _Handler.preupload),
    (rf"POST /(?:spaces/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (rf"POST /api/(?:models|spaces)/{_NAME}/commit/(.+)", _Handler.commit),
    (rf"(?:GET|HEAD) /(?:spaces/)?{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
