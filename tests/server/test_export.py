"""The trained student leaves the run: in every form, the same student, and never half."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from nanodistill_mcp.pipeline.export_score import Scored
from nanodistill_mcp.pipeline.scoring import score
from nanodistill_mcp.pipeline.unbundle import import_bundle
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.settings import load_settings
from tests.conftest import SHORT, WAIT_S, Bench, Demo
from tests.server.made import amplified_run
from tests.tiny_student import make_tiny

ALSO = ["peft", "mlx_4bit", "gguf_lora", "lm_studio"]


@pytest.mark.slow
async def test_a_trained_student_says_the_same_in_mlx_and_llama_cpp_and_comes_in_every_form(
    bench: Bench, demo: Demo
) -> None:
    """At 16 bits nothing is lost: word for word on every held-out prompt. Forms asked for later do not write it again."""
    run_id = bench.adopt(demo)
    folder = bench.run_folder(run_id)
    async with bench.connect() as agent:
        reply = await agent.finish(run_id, "export_gguf", quantization="F16", also=ALSO)
        assert reply["state"] == "done", reply["message"]
        accuracy, parity = reply["result"]["accuracy"], reply["result"]["parity"]
        assert accuracy["same_texts"] == accuracy["rows"] == 60
        assert accuracy["correct"] == accuracy["mlx"]["correct"]
        assert "no loss can be shown" in reply["message"]
        assert (parity["top1_agreement"], parity["fused_top1_agreement"]) == (1.0, 1.0)
        assert parity["fused_kl"] < 1e-4 < parity["trained_kl"]
        assert reply["next_step"]["tool"] == "compare_models"
        assert list(reply["result"]["forms"]) == ["mlx_4bit", "peft", "gguf_lora", "lm_studio"]
        for path in reply["result"]["forms"].values():
            assert (folder / path).exists()
        listed = folder / "exports" / "lm-studio" / "nanodistill" / run_id / f"{run_id}-F16.gguf"
        assert os.path.samefile(listed, folder / "model.gguf")
        written = (folder / "model.gguf").stat().st_mtime_ns
        more = await agent.finish(run_id, "export_gguf", also=["mlx_bf16", "bundle"])
        assert more["result"]["quantization"] == "F16"
        assert {*more["result"]["forms"]} == {*ALSO, "mlx_bf16", "bundle"}
        assert (folder / "model.gguf").stat().st_mtime_ns == written
        imported, _ = import_bundle(
            RunStore(bench.home),
            load_settings(bench.home, env={}),
            folder / more["result"]["forms"]["bundle"],
            name="b",
        )
        status = await agent.call("get_status", run_id=imported.run_id)
        assert [line["state"] for line in status["stages"]] == ["done"] * 5 + ["new"]
        told = await agent.refused("export_gguf", run_id=run_id, also=["awq"])
        assert "mlx_4bit (the fused model in MLX's 4 bits" in told


@pytest.mark.slow
async def test_a_student_of_another_family_in_four_bits_is_trained_exported_and_verified(
    bench: Bench, tmp_path: Path
) -> None:
    """Qwen3 on a quantized base, as most users train it: the way from the examples to a proved file, in stage jobs."""
    run_id = amplified_run(bench, make_tiny(tmp_path / "qwen3", "qwen3", quantize_bits=4))
    options = {**SHORT, "num_train_epochs": 4, "learning_rate": 1e-2}
    async with bench.connect() as agent:
        replies = [
            await agent.finish(run_id, "train", options=options),
            await agent.finish(run_id, "evaluate"),
            await agent.finish(run_id, "export_gguf"),
        ]
    assert [reply["state"] for reply in replies] == ["done"] * 3, replies[-1]["message"]
    exported = replies[-1]["result"]
    parity = exported["parity"]
    assert (exported["architecture"], exported["verified"]) == ("qwen3", True)
    assert parity["layout_proven_by"] in ("Q4_K_M", "F16")
    assert parity["prompt_ids_equal"]
    assert parity["fused_kl"] < parity["trained_kl"] / 10


async def test_a_killed_check_says_so_and_hands_over_no_file(bench: Bench, demo: Demo) -> None:
    """What llama.cpp did not agree with must not lie where a finished file lies."""
    run_id = bench.adopt(demo)
    folder = bench.run_folder(run_id)
    async with bench.connect() as agent:
        await agent.call("export_gguf", run_id=run_id, quantization="Q8_0", wait_s=0)
        os.kill(await _checking_process(folder), signal.SIGKILL)
        reply = await agent.finish(run_id, "export_gguf", quantization="Q8_0") | await agent.call(
            "get_status", run_id=run_id
        )
    line = next(line for line in reply["stages"] if line["stage"] == "export_gguf")
    assert line["state"] == "failed"
    assert "llama.cpp, while it worked with the GGUF file, was ended by SIGKILL without a result." in line["message"]
    assert "runs in mlx_lm and LM Studio" in line["message"]
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".gguf", ".tmp"))]
    assert not (folder / "export.json").exists()


async def _checking_process(folder: Path) -> int:
    """The process in which llama.cpp checks the newest export."""
    with anyio.fail_after(WAIT_S):
        while True:
            job = max((folder / "jobs").glob("*-export_gguf"))
            if (job / "verify.request.json").exists():
                pid: int = json.loads((job / "worker.json").read_text(encoding="utf-8"))["trainer"]["pid"]
                if psutil.pid_exists(pid) and str(job / "verify.request.json") in psutil.Process(pid).cmdline():
                    return pid
            await anyio.sleep(0.02)


def _scored(right: int, of_mlx: int, quantization: str, rows: int = 60) -> Scored:
    asked = [(str(number), "", "") for number in range(rows)]
    here, there = ({str(number) for number in range(count)} for count in (right, of_mlx))
    return Scored("held_out", score(asked, here), score(asked, there), right, quantization)


@pytest.mark.parametrize(
    ("right", "quantization", "larger"),
    [(54, "Q4_K_M", ""), (48, "Q4_K_M", ""), (40, "Q4_K_M", "Q5_K_M"), (40, "Q8_0", "F16"), (40, "F16", "")],
)
def test_a_file_that_loses_more_than_chance_explains_is_answered_with_the_next_size(
    right: int, quantization: str, larger: str
) -> None:
    """A few rows more or less prove nothing; below MLX's own interval it is the quantization."""
    scored = _scored(right, 54, quantization)

    assert scored.larger == larger
    assert scored.lost == (right == 40)
    assert (f"{larger} is the next larger size" in scored.verdict()) == bool(larger)


async def test_the_next_call_is_the_next_size_when_a_file_lost_too_much(bench: Bench, demo: Demo) -> None:
    """An agent that follows next_step gets there; the numbers are for the user to decide by."""
    run_id = bench.adopt(demo)
    path = bench.run_folder(run_id) / "export.json"
    export: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    scored = _scored(40, 54, "Q4_K_M")
    path.write_text(json.dumps({**export, "accuracy": scored.record(), "larger": scored.larger}), encoding="utf-8")

    async with bench.connect() as agent:
        step = (await agent.call("get_status", run_id=run_id))["next_step"]

    assert step["tool"] == "export_gguf"
    assert step["arguments"] == {"run_id": run_id, "quantization": "Q5_K_M"}
    assert "loses more than chance explains" in step["why"]
