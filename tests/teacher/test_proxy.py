"""A fleet of teachers behind LiteLLM's own proxy: one endpoint here, and the proxy's router shares the calls out.

The proxy is started from an environment of its own that ``LITELLM_PROXY`` names, because its packages are many and the server needs none.
"""

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from nanodistill_mcp.demo.wire import Fails, WireReply, WireRequest
from tests.conftest import Bench

PROXY = os.environ.get("LITELLM_PROXY", "")
MASTER_KEY, UP_WITHIN_S = "sk-fleet-0123456789", 120


@contextmanager
def _proxy(folder: Path, upstream: str) -> Generator[str]:
    """LiteLLM's proxy with two deployments of one name; yields its address."""
    deployments = [
        {"model_name": "desk", "litellm_params": {"model": f"openai/{name}", "api_base": upstream, "api_key": "k"}}
        for name in ("mac-1", "mac-2")
    ]
    settings = {"model_list": deployments, "general_settings": {"master_key": MASTER_KEY}}
    (folder / "proxy.yaml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROXY, "--config", str(folder / "proxy.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "proxy.log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as proxy:  # fmt: skip
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/health/liveliness", proxy)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            proxy.terminate()


def _wait_until_up(url: str, proxy: "subprocess.Popen[bytes]") -> None:
    until_s = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < until_s and proxy.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the proxy did not come up")


@pytest.mark.slow
@pytest.mark.skipif(not PROXY, reason="LITELLM_PROXY names no proxy's program")
@pytest.mark.parametrize("provider", ["openai", "litellm_proxy"])
async def test_a_fleet_behind_litellms_proxy_shares_the_calls_and_one_that_fails_costs_none(
    bench: Bench, tmp_path: Path, provider: str
) -> None:
    """Two machines serve one name; each third call of one fails, and the proxy asks again where it works."""
    served: Counter[str] = Counter()

    def answer(request: WireRequest) -> WireReply | None:
        served[request.model] += 1
        return Fails("server") if request.model == "mac-2" and served["mac-2"] % 3 == 0 else None

    bench.teacher.script = answer
    with _proxy(tmp_path, bench.teacher.url) as address:
        fleet = {
            "model": f"{provider}/desk",
            "api_base": address,
            "api_key_env": "FLEET_KEY",
            "usd_per_mtok": [2, 10],
        }
        bench.configure(teachers={"fleet": fleet})
        async with bench.connect(FLEET_KEY=MASTER_KEY) as agent:
            await agent.create(teacher="fleet")
            for stage in ("synthesize_cot", "extract_policy"):
                reply = await agent.finish("tickets", stage)
                assert reply["state"] == "done", reply
    assert min(served["mac-1"], served["mac-2"]) >= 3, served
    calls = bench.rows("tickets", "calls.jsonl")
    assert calls
    assert MASTER_KEY not in (bench.run_folder("tickets") / "calls.jsonl").read_text()
