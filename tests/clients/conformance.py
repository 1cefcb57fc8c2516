"""The protocol's own conformance suite against ``serve --http``, in both eras.

    npm install @modelcontextprotocol/conformance@0.2.0-alpha.12
    python tests/clients/conformance.py --conformance node_modules/.bin/conformance --page docs/conformance.md

The suite cannot send a token, and the server takes nothing without one: a gate on the loopback, which is part of this
script and of nothing else, puts it on. Scenarios that need fixtures of the suite's own (a tool test_simple_text and the
like) cannot pass on an application's server: conformance_expected.yml lists them, with the reason of each.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script, only this folder would be looked at

from tests.runs.made import make_run

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = Path(__file__).with_name("conformance_expected.yml")
REVISIONS = ("2026-07-28", "2025-11-25")
WITHIN_S = 280
_SERVING = re.compile(r"Serving http://127\.0\.0\.1:(\d+)/mcp\. The token is in (.+)\.\n")


@contextmanager
def served(home: Path) -> Generator[tuple[int, str]]:
    """A server over HTTP with one run: its port and its token."""
    make_run(home)
    command = [sys.executable, "-m", "nanodistill_mcp", "--home", str(home), "serve", "--http", "--port", "0"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = _SERVING.match(process.stderr.readline())
        assert found
        try:
            yield int(found[1]), Path(found[2]).read_text(encoding="utf-8").strip()
        finally:
            process.terminate()


@contextmanager
def gate(port: int, token: str) -> Generator[int]:
    """A port that passes each request on with the token, one a connection; another name for this machine is passed on as it is."""

    class Pass(StreamRequestHandler):
        def handle(self) -> None:
            lines: list[bytes] = []
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                lines.append(line)
            if not lines:
                return
            here = b":%d" % self.connection.getsockname()[1]
            kept = [
                line.replace(here, b":%d" % port) if line.lower().startswith(b"host:") else line
                for line in lines
                if not line.lower().startswith((b"connection:", b"authorization:"))
            ]
            kept += [b"Authorization: Bearer %s\r\n" % token.encode(), b"Connection: close\r\n", b"\r\n"]
            sizes = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")]
            with socket.create_connection(("127.0.0.1", port)) as server:
                server.sendall(b"".join(kept) + self.rfile.read(int(sizes[0]) if sizes else 0))
                while data := server.recv(65_536):
                    self.wfile.write(data)

        def finish(self) -> None:
            with suppress(OSError):  # the suite went away
                super().finish()

    class Gate(ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The suite breaks connections off on purpose."""

    with Gate(("127.0.0.1", 0), Pass) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()


def run(conformance: str, revision: str, *scenarios: str) -> tuple[int, str]:
    """The suite at one revision: its exit code and what it printed, the ports taken out."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (port, token), gate(port, token) as outside:
        url = f"http://127.0.0.1:{outside}/mcp"
        command = [
            conformance,
            "server",
            "--url",
            url,
            "--requirements",
            revision,
            "--expected-failures",
            str(EXPECTED),
        ]
        for scenario in scenarios:
            version = [] if scenario.startswith("tasks-") else ["--spec-version", revision]
            command = [conformance, "server", "--url", url, *version, "--scenario", scenario, "--verbose"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False, cwd=folder)
    printed = ended.stdout + ended.stderr
    return ended.returncode, printed.replace(str(outside), "PORT").replace(str(port), "PORT")


BEYOND = {
    "tasks-": "needs the suite's own long tools; ours are tested in tests/server/test_tasks.py",
    "http-custom-header": "no tool of ours asks for an argument in a header",
    "json-schema-2020-12": "needs the suite's own tool",
    "server-sse-polling": "needs the suite's own tool",
}
"""Scenarios that no revision requires and that fail here, by how their names begin."""

_LINE = re.compile(r"^[✓✗] ([a-z0-9-]+): (\d+) passed, (\d+) failed$", re.MULTILINE)


def reasons() -> dict[str, str]:
    """Why each scenario that fails does, by its name."""
    found = re.findall(r"^  - ([\w-]+)(?::[\w-]+)?  # (.+)$", EXPECTED.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def page(printed: dict[str, str]) -> str:
    """What the suite found, as a page."""
    told = [
        "# Conformance",
        "",
        "The suite of the protocol itself, `@modelcontextprotocol/conformance` 0.2.0-alpha.12, against `serve --http`, in the revision of",
        "each era. Every message is held against the protocol's schema on the way. Made by:",
        "",
        "```sh",
        "npm install @modelcontextprotocol/conformance@0.2.0-alpha.12",
        "python tests/clients/conformance.py --conformance node_modules/.bin/conformance --page docs/conformance.md",
        "```",
        "",
        "Many scenarios call tools, resources and prompts that a server made for the suite would have. What fails, and why, stands in",
        "`tests/clients/conformance_expected.yml`; anything else that fails, or an entry that passes, is an error.",
    ]
    told += [
        "",
        "The Inspector's look at the tools' schemas, for what other clients' models may refuse, is clean in both eras:",
        "",
        "```sh",
        "mcp-inspector --cli --protocol-era modern nanodistill-mcp serve --method tools/list --strict",
        "mcp-inspector --cli --protocol-era legacy nanodistill-mcp serve --method tools/list --strict",
        "```",
    ]
    for revision, text in printed.items():
        told += ["", f"## {revision}", "", "| scenario | checks passed | failed | why |", "|---|---|---|---|"]
        for name, passed, failed in _LINE.findall(text):
            why = reasons().get(name) or next((told_ for begin, told_ in BEYOND.items() if name.startswith(begin)), "?")
            told.append(f"| {name} | {passed} | {failed} | {why if failed != '0' else ''} |")
    return "\n".join(told) + "\n"


def main() -> int:
    """Run it at each revision; exit code 1 where something failed that is not expected to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conformance", default="conformance", help="the suite's program (default: conformance)")
    parser.add_argument("--scenario", default="", help="one scenario, in full")
    parser.add_argument("--page", default="", help="write what was found to this file")
    arguments = parser.parse_args()
    conformance = str(Path(arguments.conformance).absolute()) if "/" in arguments.conformance else arguments.conformance
    found: dict[str, str] = {}
    failed = False
    for revision in REVISIONS:
        code, found[revision] = run(conformance, revision, *([arguments.scenario] if arguments.scenario else []))
        print(f"== {revision}: exit {code}", found[revision], sep="\n")
        failed = failed or code != 0
    if arguments.page:
        Path(arguments.page).write_text(page(found), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
