"""Web servers for the tests of moving models: one that breaks down on demand, and a little of Hugging Face's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    """A running server."""

    url: str
    requests: list[tuple[str, str | None]]
    """Path and Range header of each request."""


@contextlib.contextmanager
def serve(
    root: Path,
    *,
    resumes: bool = True,
    sent: Callable[[int], bool] = lambda total: True,
    endless: bool = False,
    busy: int = 0,
    hangs_up: bool = False,
    login: str = "",
) -> Iterator[Server]:
    """Serve a folder over HTTP.

    Args:
      root: the folder.
      resumes: answer Range headers.
      sent: called before each 256 bytes with the bytes sent so far by all requests; False: break the connection.
      endless: never stop sending a file.
      busy: requests that are answered by status 503 first.
      hangs_up: or not at all, the connection closed instead.
      login: name:password that a proxy's clients must give.
    """
    requests: list[tuple[str, str | None]] = []
    total = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers.get("Range")))
            if len(requests) <= busy:
                return self.send_error(503) if not hangs_up else None
            given = self.headers.get("Proxy-Authorization", "Basic ").removeprefix("Basic ")
            if base64.b64decode(given).decode() != login:
                return self.send_error(407)
            path = root / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            first = int(self.headers["Range"][6:-1]) if resumes and self.headers["Range"] else 0
            if first and first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            if not endless:
                self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.send(content[first:])

        def send(self, content: bytes) -> None:
            while content:
                if not sent(total[0]):
                    return
                self.wfile.write(content[:256])
                self.wfile.flush()
                total[0] += len(content[:256])
                content = content if endless else content[256:]

        def log_message(self, *_: object) -> None: ...

    with run(Handler) as url:
        yield Server(url, requests)


@contextlib.contextmanager
def serve_hub(root: Path, *, busy: Callable[[], str] = lambda: "") -> Iterator[str]:
    """Serve a folder as the one revision of every Hugging Face repository, and take commits to it.

    Args:
      root: the folder.
      busy: tells the commit that somebody else has just made, if any.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/"):
                return self.answer_about_files()
            path = root / re.split("/resolve/[^/]+/", self.path)[-1].lstrip("/")
            if not path.is_file():
                return self.answer(b"", {"X-Error-Code": "EntryNotFound"}, status=404)
            content = path.read_bytes()
            self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.commit()})

        def answer_about_files(self) -> None:
            """Tell a revision's files, or those of a folder that is asked for: there is none."""
            files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
            if "/tree/" in self.path:
                return self.answer(b"[]", {"Content-Type": "application/json"})
            facts = {"id": "o/zoo", "sha": self.commit(), "siblings": [{"rfilename": name} for name in files]}
            self.answer(json.dumps(facts).encode(), {"Content-Type": "application/json"})

        def commit(self) -> str:
            """Another one after each change."""
            contents = [path.read_bytes() for path in sorted(root.glob("*.json"))]
            return hashlib.sha1(b"".join(contents)).hexdigest()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer: dict[str, object] = {"url": f"http://{self.headers['Host']}/o/zoo", "name": "o/zoo"}
            if "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                answer = {"files": [{"path": name, **modes} for name in names]}
            elif "/commit/" in self.path:
                operations = [json.loads(line) for line in body.splitlines()]
                parent = operations[0]["value"].get("parentCommit")
                if (root / "index.json").is_file() and parent != (busy() or self.commit()):
                    return self.answer(b"{}", {"Content-Type": "application/json"}, status=412)
                for operation in operations:
                    self.store(operation)
                answer = {
                    "commitUrl": f"http://{self.headers['Host']}/o/zoo/commit/0",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            self.answer(json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def store(self, operation: dict) -> None:
            if operation["key"] == "file":
                path = root / operation["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(operation["value"]["content"]))

        def answer(self, content: bytes, headers: dict[str, str], *, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with run(Handler) as url:
        yield url


@contextlib.contextmanager
def run(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
