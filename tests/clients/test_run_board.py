"""The run board in a real Chromium: in a host of MCP Apps, and as ``show --web`` serves it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from nanodistill_mcp.server import board
from tests.clients.chromium import Browser, Message, Proxy, chromium, program
from tests.conftest import Bench
from tests.server.made import RUN, amplified_run

pytestmark = [pytest.mark.clients, pytest.mark.skipif(program() is None, reason="there is no Chromium here")]

HOSTILE = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script> & a lamp"
ROWS = "document.querySelectorAll('.rows > li').length"
LONG = {"num_train_epochs": 50, "batch_size": 1}


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncGenerator[Browser]:
    """A page whose errors fail the test: a policy that refuses something of ours is one."""
    async with chromium(tmp_path / "chromium") as opened:
        yield opened
        assert opened.complaints == []


def _through(client: Client) -> Proxy:
    async def proxy(name: str, arguments: Message) -> Message:
        result = await client.call_tool(name, arguments)
        return json.loads(result.model_dump_json(by_alias=True, exclude_none=True))

    return proxy


def _press(key: str) -> str:
    return f"[...document.querySelectorAll('button')].find((each) => each.dataset.key === {key!r}).click() || true"


def _fill(box: str, text: str) -> str:
    return f"Boolean(document.querySelector('[data-key={box}]').value = {json.dumps(text)})"


async def test_in_a_host_the_user_looks_at_examples_and_what_is_decided_holds(bench: Bench, browser: Browser) -> None:
    """Drop, edit and undo reach the run; a text that is markup stays a text; the agent is told of it."""
    amplified_run(bench)
    async with bench.connect() as agent:
        html = next(iter((await agent.client.read_resource(board.BOARD)).contents))
        await browser.host(getattr(html, "text", ""), _through(agent.client), {"run_id": RUN}, theme="dark")
        await browser.until(f"{ROWS} > 4", inside=True)
        assert await browser.script("document.documentElement.dataset.theme", inside=True) == "dark"
        assert await browser.script("sizes.length > 0 && sizes.at(-1).height > 400")
        dropped, edited = (row["id"] for row in bench.rows(RUN, "traces_amplified.jsonl")[:2])
        await browser.script(_press(f"drop-{dropped}"), inside=True)
        await browser.until("document.querySelector('#rows .told')?.textContent.includes('is dropped')", inside=True)
        await browser.script(_press(f"edit-{edited}"), inside=True)
        await browser.script(_fill("box-input", HOSTILE), inside=True)
        await browser.script(_press("save"), inside=True)
        await browser.until("document.querySelector('#rows .told')?.textContent.includes('is edited')", inside=True)
        assert HOSTILE in await browser.script("document.querySelector('.rows').textContent", inside=True)
        assert await browser.script("document.querySelectorAll('img').length", inside=True) == 0
        assert await browser.script("document.title", inside=True) == f"{RUN} - run board"
        page = await agent.call("read_artifact", run_id=RUN, artifact="examples.jsonl", limit=500)
        rows = {row["id"]: row for row in map(json.loads, page["text"].splitlines())}
        assert dropped not in rows
        assert rows[edited]["input"] == HOSTILE
        told = json.dumps(await browser.script("models"))
        assert f"{dropped} is dropped" in told
        assert "onerror" not in told
        await browser.script(_press("tab-rejected.jsonl"), inside=True)
        await browser.until("document.querySelector('.rows').textContent.includes('solutions disagree')", inside=True)


async def test_a_training_is_watched_paused_and_cancelled_from_the_board(bench: Bench, browser: Browser) -> None:
    """The buttons do what control_job does, and the last of them asks first."""
    bench.configure()
    amplified_run(bench)
    async with bench.connect() as agent:
        await agent.call("train", run_id=RUN, options=LONG, wait_s=0)
        await browser.host(board.page(), _through(agent.client), {"run_id": RUN}, width=400)
        await browser.until("Boolean(document.querySelector('.chart .train'))", inside=True)
        await browser.script(_press("pause"), inside=True)
        await browser.until("document.querySelector('#now').textContent.includes('Train is paused')", inside=True)
        assert (await agent.call("get_status", run_id=RUN))["stages"][3]["state"] == "paused"
        await browser.script(_press("pause"), inside=True)
        await browser.until("document.querySelector('#now').textContent.includes('Train is running')", inside=True)
        await browser.script(_press("cancel"), inside=True)
        await browser.until(
            "document.querySelector('#head').textContent.includes('What it finished is kept')", inside=True
        )
        assert (await agent.call("get_status", run_id=RUN))["running"] == "train"
        await browser.script(_press("yes"), inside=True)
        await browser.until("document.querySelector('#now').textContent.includes('Train was cancelled')", inside=True)
        assert (await agent.call("get_status", run_id=RUN))["running"] == ""


async def test_a_host_that_calls_no_tools_still_shows_the_answer(bench: Bench, browser: Browser) -> None:
    """No button promises what cannot be done there."""
    amplified_run(bench)
    async with bench.connect() as agent:
        asked: list[str] = []

        async def proxy(name: str, arguments: Message) -> Message:
            asked.append(name)
            return await _through(agent.client)(name, arguments)

        await browser.host(board.page(), proxy, {"run_id": RUN}, can={})
        await browser.until("document.querySelectorAll('#stages li').length === 6", inside=True)
        assert await browser.script(f"{ROWS} + document.querySelectorAll('#head button').length", inside=True) == 0
    assert asked == ["get_status"]


async def test_the_list_of_runs_leads_to_each(bench: Bench, browser: Browser) -> None:
    """get_status without a run is the list; a press opens one."""
    amplified_run(bench)
    async with bench.connect() as agent:
        await browser.host(board.page(), _through(agent.client), {})
        await browser.until("document.querySelectorAll('#runs td').length", inside=True)
        await browser.script(_press(RUN), inside=True)
        await browser.until(f"{ROWS} > 4", inside=True)


@pytest.fixture
def address(bench: Bench) -> Any:
    """The board of a run, as the command serves it."""
    amplified_run(bench)
    command = [sys.executable, "-m", "nanodistill_mcp", "show", RUN, "--web"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(bench.home), "NANODISTILL_HOME": str(bench.home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        [found] = re.findall(r"http://\S+", process.stdout.readline())
        yield found
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize("width", [400, 900])
async def test_in_a_browser_it_fits_follows_the_systems_colours_and_is_reached_by_keys(
    bench: Bench, address: str, browser: Browser, width: int
) -> None:
    """The same page without a host: nothing is cut off, no mouse is needed."""
    colours: list[str] = []
    for dark in (False, True):
        await browser.open(address, width=width, height=900, dark=dark)
        await browser.until(f"{ROWS} > 4")
        assert await browser.script("document.documentElement.scrollWidth <= innerWidth")
        colours.append(await browser.script("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 25, 30)"]
    await browser.key("Tab")
    assert await browser.script("document.activeElement.dataset.key") == "synthesize_cot"
    await browser.key("Enter")
    assert "Solve" in await browser.until("document.querySelector('#said').textContent")
    assert await browser.script("document.activeElement.dataset.key") == "synthesize_cot"
    first = bench.rows(RUN, "traces_amplified.jsonl")[0]["id"]
    reached: set[str] = set()
    for _ in range(40):
        await browser.key("Tab")
        reached.add(await browser.script("document.activeElement.dataset.key || document.activeElement.tagName"))
    assert {"export_gguf", "tab-examples.jsonl", f"edit-{first}", f"drop-{first}", "more"} <= reached
    await browser.script(_press(f"drop-{first}"))
    await browser.until("document.querySelector('#rows .told')?.textContent.includes('is dropped')")
