"""A small Hub on this machine: what huggingface_hub and datasets ask for to read repositories, and to write models."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

FIRST = "0" * 40  # commit of a repository that was made here


@dataclass
class Hub:
    """Example: ``Hub({"datasets/someone/data": {"0123...": {"data.jsonl": b"{}"}}})``: files of commits."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "GET /api/..."
    messages: list[str] = field(default_factory=list)  # of the commits that were made
    account: dict[str, Any] = field(default_factory=lambda: {"name": "me", "type": "user", "orgs": []})
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # status and message, by a pattern of paths
    address: str = ""

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit, and its files by path; "main" is the newest commit."""
        commits = self.repositories.get(repository, {})
        commit = next(reversed(commits), None) if revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else None

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> str:
        """The lines of a commit as the Hub takes them, each file within."""
        commits = self.repositories[repository]
        _, files = self.files(repository, "main") or ("", {})
        files = dict(files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        name = sha1(f"{repository}{len(commits)}".encode()).hexdigest()
        commits[name] = files
        return name


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}


def _listing(files: dict[str, bytes], start: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The files that lie in a folder and its folders; or, recursively, all below it."""
    inner = {path: path.removeprefix(start).split("/") for path in files}
    names = dict.fromkeys(start + parts[0] for parts in inner.values() if len(parts) > 1)
    folders = [{"type": "directory", "path": name, "size": 0, "oid": sha1(name.encode()).hexdigest()} for name in names]
    direct = [path for path, parts in inner.items() if recursive or len(parts) == 1]
    return [*folders, *(_entry(path, files[path]) for path in direct)]


class _Handler(BaseHTTPRequestHandler):
    """Of a subclass for each Hub, see `_handler`."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_POST(self) -> None:
        path, body = self._path(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused(path):
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {FIRST: {}})
            self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/[^/]+", path):
            modes = [{"uploadMode": "regular", "shouldIgnore": False} | each for each in json.loads(body)["files"]]
            self._json({"files": modes})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/[^/]+", path):
            commit = self.hub.commit(found[1], [json.loads(line) for line in body.splitlines() if line])
            self._json({"commitUrl": f"{self.hub.address}/{found[1]}/commit/{commit}", "commitOid": commit})
        elif found := re.fullmatch(r"/api/(datasets|models)/(.+)/paths-info/([^/]+)", path):
            wanted = _wanted(body)
            found_files = self._files(found[1], found[2], found[3])
            if found_files:
                self._json([_entry(name, found_files[1][name]) for name in wanted if name in found_files[1]])
        else:
            self._missing("EntryNotFound")

    def _read(self) -> None:
        path = self._path()
        if self._refused(path):
            return
        if path == "/":
            self._json({})
        elif path == "/api/whoami-v2":
            self._json(self.hub.account)
        elif found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._information(found[1], found[2], found[3] or "main")
        elif found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            self._tree(*found.groups())
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._content("datasets" if found[1] else "models", found[2], found[3], found[4])
        else:
            self._missing("EntryNotFound")

    def _information(self, kind: str, name: str, revision: str) -> None:
        if found := self._files(kind, name, revision):
            self._json({"id": name, "sha": found[0], "siblings": [{"rfilename": path} for path in found[1]]})

    def _tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        if found := self._files(kind, name, revision):
            start = f"{folder}/" if folder else ""
            inside = {path: content for path, content in found[1].items() if path.startswith(start)}
            if folder and not inside:
                self._missing("EntryNotFound")
            else:
                recursive = "recursive=true" in self.path.lower()
                self._json(_listing(inside, start, recursive=recursive))

    def _content(self, kind: str, name: str, revision: str, path: str) -> None:
        if not (found := self._files(kind, name, revision)):
            return
        if path not in found[1]:
            self._missing("EntryNotFound")
            return
        content = found[1][path]
        self._send(200, content, {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": found[0]})

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = f"datasets/{name}" if kind == "datasets" else name
        found = self.hub.files(repository, revision)
        if found is None:
            self._missing("RevisionNotFound" if repository in self.hub.repositories else "RepoNotFound")
        return found

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _refused(self, path: str) -> bool:
        for pattern, (status, message) in self.hub.refusals.items():
            if re.fullmatch(pattern, path):
                self._send(status, b"{}", {"X-Error-Message": message})
                return True
        return False

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code}: {self.path}"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": hub})


def _wanted(body: bytes) -> list[str]:
    """The paths of a request, as JSON or as a form."""
    try:
        return json.loads(body)["paths"]
    except ValueError:
        return parse_qs(body.decode())["paths"]
