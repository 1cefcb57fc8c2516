"""A small Hugging Face hub on a local port: serves folders as repositories, the way its client asks for them."""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_REVISION = "a" * 40


class Hub:
    """What is served, and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        """Status and error code of repositories that are answered with an error."""
        self.requests: list[str] = []
        self.newest = _REVISION
        """The commit the branch is at."""
        self.address = ""


@contextmanager
def serving() -> Generator[Hub]:  # noqa: C901 - one small method per kind of request
    """Serve until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
            """Stay silent."""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0].replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
            repo = "/".join(
                (path.removeprefix("/api/models/") if path.startswith("/api/") else path[1:]).split("/")[:2]
            )
            folder = hub.repositories.get(repo)
            if folder is None:
                status, code = hub.refused.get(repo, (404, "RepoNotFound"))
                self._send(status, b"{}", {"X-Error-Code": code}, with_body=with_body)
            elif "/resolve/" in path:
                self._send_file(folder, path.split("/resolve/")[1].split("/", 1)[1], with_body=with_body)
            else:
                asked = path.partition("/revision/")[2]
                revision = asked if asked and asked != "main" else hub.newest
                described = _tree(folder) if "/tree/" in path else _info(repo, folder, revision)
                self._send(200, json.dumps(described).encode(), {}, with_body=with_body)

        def _send_file(self, folder: Path, name: str, *, with_body: bool) -> None:
            if not (folder / name).is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
                return
            data = (folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": _REVISION}
            self._send(200, data, headers, with_body=with_body)

        def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": path.name,
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    ]


def _info(repo: str, folder: Path, revision: str) -> dict[str, Any]:
    return {
        "id": repo,
        "sha": revision,
        "siblings": [
            {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ],
        "safetensors": {"parameters": {"F32": 98_624}, "total": 98_624},
        "cardData": {"license": "apache-2.0"},
    }
