"""Bytes that no client would send, on the pipe of the real server: it answers, or it passes them over, and lives on.

A failure prints its seed; ``FUZZ_SEED=<seed>`` before the command sends the same bytes again.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.raw import HELLO, Raw, call, serving
from tests.fuzz.strategies import ATTACKS

ENDS_WITHIN_S = 3.0
"""Promised is a second; tests share the machine with others."""
KEY = "sk-wire-" + "n0tT0BeSeen" * 3
_PINGED_AT = 10_000_000


def _json(chance: random.Random) -> bytes:
    """A message with something wrong about it."""
    odd: list[Any] = [*ATTACKS, None, True, -1, 1e308, [], {}, [[]], "\ud83d"]
    attack = chance.choice(odd)
    message: dict[str, Any] = {
        **call(
            chance.randrange(10**6), chance.choice(["get_status", "create_run", "read_artifact", "x"]), run_id=attack
        ),
    }
    match chance.randrange(7):
        case 0:
            message[chance.choice(list(message))] = attack
        case 1:
            del message[chance.choice(list(message))]
        case 2:
            message["params"][chance.choice(["name", "arguments", "_meta", "task"])] = attack
        case 3:
            message["method"] = chance.choice(
                ["initialize", "tools/list", "resources/read", "prompts/get", "ping", "logging/setLevel", "$/x"]
            )
        case 4:
            message["params"]["_meta"] = {"io.modelcontextprotocol/protocolVersion": attack, "progressToken": attack}
        case 5:
            message["id"] = attack
        case _:
            pass
    return json.dumps(message).encode()


def _nested(chance: random.Random) -> bytes:
    depth = chance.choice([50, 300, 5_000, 100_000])
    return json.dumps(call(1, "get_status", run_id="<deep>")).encode().replace(b'"<deep>"', b"[" * depth + b"]" * depth)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "a message with something wrong": _json,
    "half a message": lambda chance: _json(chance)[: chance.randrange(1, 60)],
    "bytes that are no text": lambda chance: chance.randbytes(chance.randrange(1, 200)).replace(b"\n", b" "),
    "a message with bytes in it that are no text": lambda chance: _json(chance).replace(b"get", b"g\xff\xc0t"),
    "flipped bits": lambda chance: bytes(
        byte ^ (chance.random() < 0.02) << chance.randrange(7) for byte in _json(chance)
    ).replace(b"\n", b" "),
    "deep nesting": _nested,
    "many messages in a list": lambda chance: b"[" + b",".join(_json(chance) for _ in range(5)) + b"]",
    "a long word": lambda chance: json.dumps(call(2, "x" * chance.randrange(10**5))).encode(),
    "numbers that are none": lambda _: b'{"jsonrpc":"2.0","id":NaN,"method":"ping","params":{"x":1e99999}}',
    "the same key twice": lambda _: b'{"jsonrpc":"2.0","id":3,"id":4,"method":"ping","method":"tools/list"}',
}


def _fuzz(lines: int, tmp_path: Path, *, greeted: bool) -> str:
    seed = int(os.environ.get("FUZZ_SEED", "0")) or random.randrange(1, 10**9)
    chance = random.Random(seed)
    try:
        with serving(tmp_path / "home", greeted=greeted, env={"WIRE_API_KEY": KEY}) as server:
            for number in range(lines):
                kind = chance.choice(list(KINDS))
                server.write(KINDS[kind](chance) + b"\n")
                if number % 25 == 0:
                    _still_there(server, _PINGED_AT + number, greeted=greeted)
            _still_there(server, _PINGED_AT + lines, greeted=greeted)
            server.write(b'{"jsonrpc": "2.0", "id": 9, "method": "tools/ca')
            ended_s = server.ends_after_eof_s()
            assert ended_s < ENDS_WITHIN_S
            told = server.log.read_bytes() + server.seen
            assert KEY.encode() not in told
            assert b"Traceback" not in server.seen
            assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "home.stderr"]
            return (
                f"{lines} lines, and the server lived on; it ended {ended_s:.1f} s after its input [FUZZ_SEED={seed}]"
            )
    except BaseException as error:
        error.add_note(f"FUZZ_SEED={seed} sends the same bytes again.")
        raise


def _still_there(server: Raw, number: int, *, greeted: bool) -> None:
    """An answer under a number of ours, with a result or an error: what era the pipe is in may be the fuzz's doing."""
    if greeted:
        assert server.is_alive(number)
        return
    server.send({**HELLO, "id": number})
    server.answer(number)


@pytest.mark.fuzz
def test_no_bytes_end_the_server(tmp_path: Path) -> None:
    """A client with a defect, or a program that is none, must not take the user's server away."""
    _fuzz(100, tmp_path, greeted=random.random() < 0.5)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("greeted", [True, False], ids=["after the handshake", "before it"])
def test_no_bytes_end_the_server_at_length(
    tmp_path: Path, greeted: bool, record_property: Callable[[str, object], None]
) -> None:
    """As many as a night has room for."""
    lines = int(os.environ.get("FUZZ_EXAMPLES", "50000"))
    record_property("measured", _fuzz(lines, tmp_path, greeted=greeted))


@pytest.mark.fuzz
@pytest.mark.slow
def test_ten_thousand_requests_in_flight_are_all_answered(tmp_path: Path) -> None:
    """Answered or refused, each under its number, and the server ends with its input all the same."""
    with serving(tmp_path / "home") as server:
        for first in range(1, 10_001, 100):
            server.send(*(call(number, "get_status") for number in range(first, first + 100)))
            answered = {server.answer_any()["id"] for _ in range(100)}
            assert len(answered) == 100
        assert server.is_alive(_PINGED_AT)
        assert server.ends_after_eof_s() < ENDS_WITHIN_S
