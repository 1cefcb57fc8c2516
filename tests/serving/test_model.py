"""The model's process is another's than the server's: it is dropped, filled and killed, and the server answers on."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import psutil
import pytest

from nanodistill_mcp.cli.serving import serve_model
from nanodistill_mcp.errors import MachineError
from nanodistill_mcp.jobs import memory
from nanodistill_mcp.pipeline.serve import Form
from nanodistill_mcp.serving import wire
from nanodistill_mcp.serving.bodies import RefusedError
from nanodistill_mcp.settings import DEVICE_VARIABLE
from tests.conftest import Demo
from tests.serving.conftest import Endless, endless, gone, home_of, serve_run

ASKED = {"messages": [{"role": "user", "content": "the good number"}]}
CHAT = "/v1/chat/completions"


async def _ask(served: Endless, found: list[httpx2.Response], **further: object) -> None:
    found.append(await served.http.post(CHAT, json={**ASKED, **further}))


async def test_one_life_of_a_served_model(random_student: Path) -> None:
    """It says that it loads, sends away whom it has no room for, writes for nobody who left, and comes back after its death."""
    async with endless(random_student) as served:
        loading = await served.http.get("/ping")
        early = await served.http.post(CHAT, json=ASKED)
        assert (loading.status_code, early.status_code, early.headers["retry-after"]) == (503, 503, "5")
        assert early.json()["error"]["code"] == "model_loading"
        await served.ready()

        async with served.http.stream("POST", CHAT, json={**ASKED, "stream": True}) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            second: list[httpx2.Response] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: _ask(served, second, max_tokens=2))
                while not served.model.waiting:
                    await anyio.sleep(0.01)
                third = await served.http.post(CHAT, json=ASKED)
                assert (third.status_code, third.json()["error"]["type"]) == (429, "rate_limit_error")
                await stream.aclose()  # the second is answered now, long before the first would have ended
        assert second[0].status_code == 200
        assert second[0].json()["choices"][0]["finish_reason"] == "length"
        await served.idle()

        failed: list[httpx2.Response] = []
        before = served.model.pid
        assert before is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: _ask(served, failed))
            while not served.model.at_work:
                await anyio.sleep(0.01)
            psutil.Process(before).send_signal(signal.SIGKILL)
        assert (failed[0].status_code, failed[0].json()["error"]["code"]) == (500, "model_ended")
        await served.ready()
        assert served.model.pid != before
        again = await served.http.post(CHAT, json={**ASKED, "max_tokens": 2})
        assert again.status_code == 200


async def test_a_model_on_demand_is_loaded_with_the_first_question_which_waits_for_it(random_student: Path) -> None:
    """A teacher whose answers are all in the journal already costs neither the time nor the memory of loading it."""
    wanted: list[int | None] = []
    async with endless(random_student, most_waiting=2, when_wanted=lambda: wanted.append(served.model.pid)) as served:
        assert (await served.http.get("/ping")).status_code == 503
        assert (await served.http.get("/v1/models")).status_code == 200
        assert (wanted, served.model.pid) == ([], None)
        found: list[httpx2.Response] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(lambda: _ask(served, found, max_tokens=2))
        assert [answer.status_code for answer in found] == [200, 200]
        assert wanted == [None]
        pid = served.model.pid
        assert pid is not None
        # Linux shares processors out by sessions: alone in one, a model waits; in this one's group, a Ctrl-C would end it
        assert (os.getsid(pid), os.getpgid(pid)) == (os.getsid(0), pid)


@pytest.mark.parametrize("form", ["mlx", pytest.param("gguf", marks=pytest.mark.slow)])
def test_a_model_that_the_machine_cannot_hold_is_refused_before_it_is_loaded(
    form: Form, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends with how much is needed and there; a machine that swaps is of no use to anybody for hours."""
    monkeypatch.setenv(DEVICE_VARIABLE, "auto")
    monkeypatch.setattr(memory, "spare_gb", lambda: 0.5002)  # half a gigabyte is the process's own
    with pytest.raises(MachineError, match=r"needs 0\.00\d+ GB of memory, .* and 0\.0002 GB can be spared") as refused:
        serve_model(
            *(home_of(demo, tmp_path / "home"), "demo"),
            form=form,
            host="127.0.0.1",
            port=0,
            with_token=False,
            context_tokens=512,
            parallel=2,
        )
    assert "programs" in refused.value.next_step


async def test_a_body_that_never_comes_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that sends a byte a minute would hold a connection for ever."""
    monkeypatch.setattr(wire, "BODY_WITHIN_S", 0.02)

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    scope: dict[str, Any] = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(RefusedError) as refused:
        await wire.read_json_bytes(scope, receive)
    assert refused.value.status == 408


@pytest.mark.slow
@pytest.mark.crash
async def test_a_model_that_is_killed_again_and_again_is_back_each_time(
    random_student: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each death fails those it was answering and nobody after them; the server itself is never the one that ends."""
    deaths, statuses = int(os.environ.get("CRASH_KILLS", "12")), Counter[int]()
    monkey = random.Random(int(os.environ.get("CRASH_SEED", "1")))
    back_s: list[float] = []
    async with endless(random_student, most_waiting=64) as served:
        await served.ready()

        async def ask() -> None:
            found: list[httpx2.Response] = []
            await _ask(served, found, max_tokens=400)
            statuses[found[0].status_code] += 1

        for _ in range(deaths):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(ask)
                await anyio.sleep(monkey.uniform(0, 1))
                assert served.model.pid is not None
                psutil.Process(served.model.pid).send_signal(signal.SIGKILL)
            began_s = time.monotonic()
            await served.ready()
            back_s.append(time.monotonic() - began_s)
            assert (await served.http.post(CHAT, json={**ASKED, "max_tokens": 2})).status_code == 200
    assert set(statuses) <= {200, 500, 503}
    told = ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items()))
    record_property(
        "measured", f"{deaths} deaths, {8 * deaths} questions: {told}; back after {max(back_s):.1f} s at most"
    )


@pytest.mark.slow
def test_a_gguf_file_is_served_alike_and_ends_with_its_server(demo: Demo, tmp_path: Path) -> None:
    """llama.cpp under the same contract; a server that is killed leaves no model in memory."""
    home = home_of(demo, tmp_path / "home")
    with serve_run(home, "--format", "gguf", "--token") as served:
        assert "The token is in" in served.told
        token = (home / "http_token").read_text().strip()
        assert served.ask("GET", "/ping", headers={})[0] == 401
        client: Any = openai.OpenAI(base_url=f"{served.address}/v1", api_key=token, max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        row = next(row for row in served.rows() if row["set"] == "held_out")
        asked = [{"role": "user", "content": row["input"]}]
        whole = client.chat.completions.create(model="demo", messages=asked)
        assert whole.choices[0].message.content == row["student"]["answer"]
        assert whole.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(model="demo", messages=asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content
        cut = client.completions.create(model="demo", prompt=row["input"], max_tokens=2)
        assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)
        child = served.model_pid
        served.process.kill()
        assert gone(child)
