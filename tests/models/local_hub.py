"""A hub on this machine that keeps what it is sent: of its protocol what a folder needs on its way there and back."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"


class Hub(ThreadingHTTPServer):
    """files: path → content, by the repository's name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        """The name of a repository's present state."""
        content = b"".join(path.encode() + data for path, data in sorted(self.files[name].items()))
        return hashlib.sha1(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        body, path = self._body(), urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            words = json.loads(body)
            name = f"{words['organization']}/{words['name']}"
            self.server.files.setdefault(name, {})
            return self._answer(200, {"url": f"{self.server.endpoint}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name, _, action = path.removeprefix("/api/models/").removesuffix("/main").rpartition("/")
        if action == "preupload":
            asked = json.loads(body)["files"]
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self._answer(200, {"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = self.server.commit(name)
        return self._answer(200, {"commitUrl": f"{self.server.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(parts[:2])
        if name not in self.server.files:
            return self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        files, commit = self.server.files[name], self.server.commit(name)
        if not path.startswith("/api/"):
            file = "/".join(parts[4:])  # owner, name, "resolve", revision
            if file not in files:
                return self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            return self._send(200, files[file], {"ETag": etag, "X-Repo-Commit": commit})
        if parts[2:3] == ["tree"]:
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ]
            return self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        return self._answer(200, {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]})

    do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, code: int, values: dict, headers: dict[str, str] | None = None) -> None:
        self._send(code, json.dumps(values).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, code: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def running(server: BaseServer) -> Iterator[None]:
    """It answers for as long as the `with` lasts, and is closed then."""
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()
    with running(hub):
        yield hub
