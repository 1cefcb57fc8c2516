"""A file of a run that was cut, flipped, emptied, replaced or taken away: said in words, never a failed list, never a wrong number."""

import asyncio
import copy
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import DamagedRunError, NanodistillError
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server.app import App, stage_reply, status_reply
from nanodistill_mcp.server.artifacts import read_page
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.server.listing import runs_in_text, runs_reply
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench, Demo

pytestmark = pytest.mark.crash

WHOLE = (
    *("run.json", "seeds.jsonl", "policy.json", "traces_cot.jsonl", "traces_amplified.jsonl", "rejected.jsonl"),
    *("training.json", "evaluation.json", "export.json"),
)
"""Files that are only ever written whole, and whose content is told: a torn one must be said."""

_BINARY = (".gguf", ".safetensors", ".png", ".lock", ".gz")
_WRONG: tuple[Any, ...] = (None, "x", [], {}, -1, 1e300, True, [1])


def _damages(data: bytes, name: str, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """What becomes of files: a few of each kind."""
    size = len(data)
    if size:
        yield "cut", data[: draw.randrange(size)]
        at, bit = draw.randrange(size), 1 << draw.randrange(8)
        yield "bit flipped", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        yield "zeros within", data[:at] + bytes(min(64, size - at)) + data[at + 64 :]
        yield "all zeros", bytes(size)
    yield "empty", b""
    for value in (b"[]", b"{}", b"null", b'"x"'):
        yield f"only {value.decode()}", value + b"\n"
    if name.endswith(".json"):
        yield "wrong value", json.dumps(_mutated(json.loads(data), draw)).encode()
    elif name.endswith(".jsonl") and size:
        lines = data.splitlines()
        index = draw.randrange(len(lines))
        lines[index] = json.dumps(_mutated(json.loads(lines[index]), draw)).encode()
        yield "wrong value in a line", b"\n".join(lines) + b"\n"


def _mutated(value: Any, draw: random.Random) -> Any:
    """The value with one member, at any depth, gone or of another kind."""
    whole = copy.deepcopy(value)
    places = list(_places(whole))
    if not places:
        return whole
    container, key = draw.choice(places)
    if draw.random() < 0.2:
        del container[key]
    else:
        container[key] = draw.choice(_WRONG)
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    members: Any = range(min(2, len(value))) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
    for key in list(members):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


class Looks:
    """All that a client can look at, in this process; counts what was said of damage."""

    def __init__(self, bench: Bench, run_id: str) -> None:
        settings = load_settings(bench.home, env={})
        self._app, self._run_id = App(settings, RunStore(bench.home)), run_id
        self._server = build_server(settings)
        self.said: Counter[str] = Counter()

    def look(self, relative: str, *, where: str) -> int:
        """Look at everything; how often damage was said."""
        run = self._app.store.open(self._run_id)
        looks: list[Callable[[], object]] = [
            lambda: status_reply(run, detail=True),
            *(lambda stage=stage: stage_reply(run, stage) for stage in PIPELINE),
            lambda: read_page(run, relative, 0, 0),
            lambda: read_page(run, "examples.jsonl", 0, 0),
            lambda: read_page(run, "board.json", 0, 0),
            lambda: read_page(run, "lineage/s0001", 0, 0),
            lambda: list(effective_examples(run)),
        ]
        listed = runs_reply(self._app)
        assert [line.run_id for line in listed.runs] == [self._run_id], where
        assert runs_in_text(listed)
        asyncio.run(self._server.list_resources())
        said = int(bool(listed.runs[0].damaged))
        for look in looks:
            run = self._app.store.open(self._run_id)
            try:
                look()
            except NanodistillError as error:
                self.said[error.what if error.next_step else f"{where}: no next step"] += 1
                said += isinstance(error, DamagedRunError)
        return said


@pytest.mark.parametrize(
    "most",
    [pytest.param(8, id="sample"), pytest.param(None, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(7200)])],
)
def test_a_damaged_file_of_a_run_is_said_and_never_fails_the_list(
    bench: Bench, demo: Demo, most: int | None, record_property: Callable[[str, object], None]
) -> None:
    """Disks flip bits, people edit, copies are cut short: one bad run is one row that says so."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"repeat with CRASH_SEED={seed}")
    run_id = bench.adopt(demo)
    folder, draw = bench.run_folder(run_id), random.Random(seed)
    looks = Looks(bench, run_id)
    assert looks.look("run.json", where="undamaged") == 0
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _BINARY]
    damages = said = 0
    records = read_journal(folder / "calls.jsonl").records
    for path in draw.sample(files, most or len(files)):
        relative, data = str(path.relative_to(folder)), path.read_bytes()
        kinds = [each for _ in range(3) for each in _damages(data, relative, draw)]
        for kind, damaged in [draw.choice(kinds)] if most else kinds:
            path.write_bytes(damaged)
            found = looks.look(relative, where=f"{relative}: {kind}")
            torn = kind == "cut" and relative in WHOLE and not damaged.endswith(b"\n") and damaged
            assert found or not torn, f"{relative} cut to {len(damaged)} of {len(data)} bytes: nothing was said"
            if relative == "calls.jsonl":
                assert [each for each in read_journal(path).records if each not in records] == [], kind
            damages, said = damages + 1, said + bool(found)
        path.write_bytes(data)
        for kind, put in _PUT_IN_ITS_PLACE.items() if not most else ():
            path.unlink()
            put(path)
            found = looks.look(relative, where=f"{relative}: {kind}")
            damages, said = damages + 1, said + bool(found)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            path.write_bytes(data)
    assert looks.look("run.json", where="restored") == 0
    assert not [words for words in looks.said if "no next step" in words]
    record_property(
        "measured",
        f"{damages} damages to {most or len(files)} files of a finished run: 0 failed lists, 0 tracebacks, {said} of them said "
        f"as damage, the others not looked at or harmless; 0 records of the journal made up [CRASH_SEED={seed}]",
    )


_PUT_IN_ITS_PLACE: dict[str, Callable[[Path], object]] = {
    "deleted": lambda _: None,
    "a directory": lambda path: path.mkdir(),
    "a fifo": os.mkfifo,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
}
