"""The pipe between client and server: nothing on it ends the server, fills its memory, or mixes with its answers."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.fuzz.raw import call, serving

ENDS_WITHIN_S = 3.0
"""Promised is a second; tests share the machine with others."""


@pytest.mark.parametrize("first", ["id first", pytest.param("id last", marks=pytest.mark.slow)])
def test_a_line_of_a_hundred_megabytes_is_refused_under_its_id_and_not_kept(tmp_path: Path, first: str) -> None:
    """A client that waits for the answer must get one, and the server's memory must not be the line's size."""
    begin, end = b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "', b'"}}\n'
    if first == "id last":
        begin, end = b'{"method": "tools/call", "params": {"name": "', b'"}, "jsonrpc": "2.0", "id": 7}\n'
    with serving(tmp_path / "home") as server:
        before = server.rss_bytes()
        server.write(begin)
        for _ in range(100):
            server.write(b"x" * 1_000_000)
        server.write(end)
        told = server.answer(7)["error"]["message"]
        assert server.is_alive(8)
        assert server.rss_bytes() - before < 40_000_000
    assert told.startswith("The message is longer than 4194304 bytes.")


def test_what_is_no_message_is_passed_over(tmp_path: Path) -> None:
    """Bytes that are no text, text that is no JSON, JSON that is no message, and a line that never ends."""
    lines = (
        b"\xff\xfe\x00\n",
        b"{\n",
        b"[]\n",
        b"null\n",
        b'{"jsonrpc": "2.0"}\n',
        b"[" * 100_000 + b"\n",
        b"\n",
        b"\r\n",
    )
    with serving(tmp_path / "home") as server:
        for number, line in enumerate(lines, 1):
            server.write(line)
            assert server.is_alive(number), line[:40]
        server.write(b'{"jsonrpc": "2.0", "id": 99, "meth')
        assert server.ends_after_eof_s() < ENDS_WITHIN_S
        assert "Traceback" not in server.log.read_text()


def test_a_server_ends_with_its_input_however_much_is_in_flight(tmp_path: Path) -> None:
    """A client that is gone must leave nothing behind."""
    with serving(tmp_path / "home") as server:
        server.send(*(call(number, "get_status") for number in range(1, 300)))
        assert server.ends_after_eof_s() < ENDS_WITHIN_S


def test_what_a_tool_prints_never_mixes_with_the_protocol(tmp_path: Path) -> None:
    """A library's greeting, a raw write or a child's echo on the wire would end the client's session."""
    program = tmp_path / "noisy.py"
    program.write_text(
        dedent("""
        import os, subprocess, sys
        from pathlib import Path
        import anyio
        from nanodistill_mcp.server import build, listing, tools_looking
        from nanodistill_mcp.server.stdio import serve_stdio
        from nanodistill_mcp.settings import load_settings

        quiet = tools_looking.runs_reply
        def noisy(*given, **named):
            print("printed")
            os.write(1, b"written")
            read = subprocess.run(["sh", "-c", "echo echoed; cat"], capture_output=False, text=True)
            os.write(2, b"stdin held " + str(len(os.read(0, 10))).encode())
            return quiet(*given, **named)
        tools_looking.runs_reply = noisy
        anyio.run(serve_stdio, build.build_server(load_settings(Path(sys.argv[1]))))
        """)
    )
    home = tmp_path / "home"
    with serving(
        home, (sys.executable, str(program), str(home)), env={"PYTHONPATH": str(Path(__file__).parents[2])}
    ) as server:
        server.send(call(1, "get_status"))
        assert not server.answer(1)["result"]["isError"]
        assert server.is_alive(2)
        assert server.ends_after_eof_s() < ENDS_WITHIN_S
        log = server.log.read_text()
    words = ("printed", "written", "echoed", "stdin held 0")
    assert [word for word in words if word not in log] == []
