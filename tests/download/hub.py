"""A model hub on loopback, with the part of the Hugging Face protocol that its client uses for downloads."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

LARGE = (".pt", ".model", ".zip", ".tar.gz", ".mvn")  # stored as LFS files under their SHA-256


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    token: str | None


@dataclass
class Hub:
    """Repositories by (name, revision), the faults to simulate, and the requests received; `with` serves them."""

    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    elsewhere: dict[str, bytes] = field(default_factory=dict)  # served at /elsewhere/NAME, with no checksum
    replaced: dict[str, bytes] = field(default_factory=dict)  # sent in place of a file
    breaks: dict[str, int] = field(default_factory=dict)  # drop the connection once after this many bytes of a file
    down: bool = False  # answer requests for contents with 503; set when a connection was dropped
    stays_up: bool = False  # do not set `down` when a connection was dropped
    halts: dict[str, int] = field(default_factory=dict)  # send nothing more after this many bytes
    halted: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)
    checksums: bool = True
    asked: list[Asked] = field(default_factory=list)
    served: list[tuple[str, int]] = field(default_factory=list)  # contents sent: name of the file and first byte

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Return an address that is another host to the client, like the one that serves the hub's large files."""
        return f"http://localhost:{self.server.server_address[1]}"

    def commit(self, repository: str, revision: str) -> str | None:
        """Return the commit of a branch or commit of the repository; None if there is none."""
        for name, branch in self.repositories:
            commit = hashlib.sha1(f"{name}/{branch}".encode()).hexdigest()
            if name == repository and revision in (branch, commit):
                return commit
        return None

    def files(self, repository: str, commit: str) -> dict[str, bytes]:
        return next(files for (name, branch), files in self.repositories.items() if self.commit(name, branch) == commit)

    def by_sha256(self, digest: str) -> bytes:
        everything = [data for files in self.repositories.values() for data in files.values()]
        return next(data for data in everything if hashlib.sha256(data).hexdigest() == digest)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = Asked(self.command, path, self.headers.get("Authorization"))
        self.hub.asked.append(asked)
        with suppress(BrokenPipeError, ConnectionResetError):  # the client may be interrupted
            if result := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self.listing(result[1], result[2] or "main")
            elif result := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.resolve(result[1], result[2], result[3])
            elif result := re.fullmatch(r"/cdn/(\w+)/(.+)", path):
                self.content(result[2], self.hub.by_sha256(result[1]))
            elif result := re.fullmatch(r"/elsewhere/(.+)", path):
                self.content(result[1], self.hub.elsewhere.get(result[1], b""))
            else:
                self.refuse(404, "EntryNotFound")

    def listing(self, repository: str, revision: str) -> None:
        commit = self.hub.commit(repository, revision)
        if commit is None:
            known = any(name == repository for name, _ in self.hub.repositories)
            self.refuse(404 if known else 401, "RevisionNotFound" if known else "RepoNotFound")
            return
        blobs = "blobs=" in self.path and self.hub.checksums
        entries = [entry(name, data, blobs) for name, data in self.hub.files(repository, commit).items()]
        body = json.dumps({"id": repository, "sha": commit, "siblings": entries}).encode()
        self.answer(200, {"Content-Type": "application/json"}, body)

    def resolve(self, repository: str, revision: str, name: str) -> None:
        commit = self.hub.commit(repository, revision)
        data = self.hub.files(repository, commit).get(name) if commit else None
        if data is None:
            self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
        elif name.endswith(LARGE):
            sha256 = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": str(commit)}
            self.answer(302, {"Location": f"{self.hub.cdn}/cdn/{sha256}/{name}", **linked}, b"")
        else:
            self.content(name, data, {"ETag": f'"{git_id(data)}"', "X-Repo-Commit": str(commit)})

    def content(self, name: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        if self.hub.down:
            self.refuse(503, "Unavailable")
            return
        data = self.hub.replaced.get(name, data)
        start = int(result[1]) if (result := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if self.command == "GET":
            self.hub.served.append((name, start))
        reach = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self.answer(206 if start else 200, {"Accept-Ranges": "bytes", **(headers or {}), **reach}, data[start:], name)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"X-Error-Code": code, "X-Error-Message": code}, b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes, name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send(body, name)

    def send(self, body: bytes, name: str) -> None:
        """Send the body, or the part of it that the hub is set to send."""
        if name in self.hub.breaks:
            self.wfile.write(body[: self.hub.breaks.pop(name)])
            self.hub.down = not self.hub.stays_up
            self.close_connection = True
        elif name in self.hub.halts:
            self.wfile.write(body[: self.hub.halts[name]])
            self.hub.halted.set()
            self.hub.released.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)


def entry(name: str, data: bytes, blobs: bool) -> dict[str, object]:
    """Format a file as the hub lists it."""
    if not blobs:
        return {"rfilename": name}
    sha256 = hashlib.sha256(data).hexdigest()
    lfs = {"lfs": {"size": len(data), "sha256": sha256, "pointerSize": 134}} if name.endswith(LARGE) else {}
    return {"rfilename": name, "size": len(data), "blobId": git_id(data), **lfs}
