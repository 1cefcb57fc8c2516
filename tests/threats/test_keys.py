"""T9: the keys this machine holds are in no file, no log and no answer, whatever goes wrong and whoever repeats them."""

import json
import os
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp.demo.wire import Breaks, Fails, Says, WireReply, WireRequest
from nanodistill_mcp.demo.wire_formats import Refuses
from nanodistill_mcp.jobs import processes
from tests.conftest import Bench
from tests.fuzz.raw import call, serving

PLANTED = {
    "DESK_PASS": "desk-pass-" + "9f3c" * 6,
    "ANTHROPIC_API_KEY": "sk-ant-api03-" + "Q7w8" * 8,
    "OPENAI_API_KEY": "sk-proj-" + "Zx81" * 8,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI" + "K7MDENG" * 3,
    "HF_TOKEN": "hf_" + "aBcD" * 9,
    "NANODISTILL_HTTP_TOKEN": "http-token-" + "5a5a" * 8,
}
"""The teacher's, under a name that does not say so, and five that lie around in an environment."""


def _found(keys: dict[str, str], folder: Path, told: str) -> list[str]:
    """Which keys stand where: in any byte of any file of a folder, or in what was answered."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    hits = [
        f"{name} in {path.name}" for path in files for name, key in keys.items() if key.encode() in path.read_bytes()
    ]
    return hits + [f"{name} in an answer" for name, key in keys.items() if key in told]


async def test_a_workers_last_words_hold_no_key(tmp_path: Path) -> None:
    """A traceback quotes whatever a library put into its exception."""
    command = processes.command(
        "worker", f"/nowhere/{PLANTED['OPENAI_API_KEY']}/{PLANTED['AWS_SECRET_ACCESS_KEY']}", "j", "n", "0"
    )
    environment = {**PLANTED, "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = await anyio.run_process(
        [part for part in command if part != "-I"], env=environment, cwd=tmp_path, check=False
    )
    told = (ended.stdout + ended.stderr).decode()
    assert "FileNotFoundError" in told
    assert "/nowhere/[key]/[key]" in told
    assert [name for name, key in PLANTED.items() if key in told] == []


class Echoes:
    """A provider that fails in many ways, and repeats what it was sent in most of them."""

    def __init__(self) -> None:
        self._chance = random.Random(3)
        self.repeated = 0

    def __call__(self, request: WireRequest) -> WireReply | None:
        headers = json.dumps(request.headers)
        self.repeated += PLANTED["DESK_PASS"] in headers
        if request.schema_name == "PolicyDraft":  # there is one, and without it the later stage would not be seen
            return None
        match self._chance.randrange(9):
            case 0:
                return Fails("parameter", name=f"no such header: {headers}")
            case 1:
                return Says(f"You sent {headers}")
            case 2:
                return Says({"solution": headers, "answer": headers})
            case 3:
                return Fails("server")
            case 4:
                return Refuses(f"I can't, with {headers}.")
            case 5:
                return Breaks("half_json")
            case _:
                return None


@pytest.mark.slow
async def test_after_a_run_in_which_all_goes_wrong_no_key_is_anywhere(bench: Bench) -> None:
    """Every byte of the data directory, the server's log, and every answer, with six planted keys."""
    bench.teacher.script = echoes = Echoes()
    assert bench.teacher.server is not None
    endpoint = {"model": "openai/desk", "api_base": bench.teacher.server.openai_url, "api_key_env": "DESK_PASS"}
    bench.configure(teachers={"local": {**endpoint, "usd_per_mtok": [2, 10]}})
    told: list[Any] = []
    async with bench.connect(**PLANTED) as agent:
        told.append(await agent.create())
        told += [await agent.finish("tickets", stage) for stage in ("synthesize_cot", "extract_policy", "amplify")]
        told.append(await agent.call("get_status", run_id="tickets", detail=True))
        for artifact in ("calls.jsonl", "traces_cot.jsonl", "log.txt", "run.json"):
            reply = await agent.client.call_tool("read_artifact", {"run_id": "tickets", "artifact": artifact})
            told.append(reply.model_dump_json())
    assert echoes.repeated > 10, "the key was sent, and repeated"
    assert _found(PLANTED, bench.home, json.dumps(told)) == []


@pytest.mark.slow  # each commit tries answers in tests/server/test_door.py
def test_a_servers_own_log_and_answers_hold_no_key(tmp_path: Path) -> None:
    """Names, paths and tools made of a key by somebody who has it: the answer would put it into a chat."""
    with serving(tmp_path / "home", env=PLANTED) as server:
        for number, key in enumerate(PLANTED.values(), 1):
            server.send(
                call(3 * number, "get_status", run_id=key),
                call(3 * number + 1, key),
                call(3 * number + 2, "create_run", **{"name": key, "instruction": key, key: key, "seed": [{key: key}]}),
            )
            for each in range(3):
                server.answer(3 * number + each)
        assert server.ends_after_eof_s() < 3
        told = (server.seen + server.log.read_bytes()).decode()
    assert "[key]" in told
    known = {name: key for name, key in PLANTED.items() if name != "DESK_PASS"}  # no configuration says it is one
    assert [name for name, key in known.items() if key in told] == []
