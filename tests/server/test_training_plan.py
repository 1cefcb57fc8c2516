"""train(dry_run=true) through the real client: what training will take is known before it starts, and is what is done."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHORT, Bench, Demo
from tests.server.made import amplified_run
from tests.student.gguf_students import write_random_weights
from tests.tiny_student import make_tiny


def _options(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["option"]: line for line in plan["resolved"]}


async def test_a_plan_says_what_training_will_take_and_training_does_just_that(bench: Bench) -> None:
    """The user decides on these numbers; a plan that training may leave is worth nothing."""
    run_id = amplified_run(bench)
    options = {**SHORT, "lora_alpha": 32, "r": 8, "lr": 5e-4}
    async with bench.connect() as agent:
        reply = await agent.plan_training(run_id, **options)
        assert (reply["state"], reply["stage"]) == ("done", "plan_training"), reply["message"]
        plan = reply["result"]
        assert plan["dry_run"]
        assert 0 < plan["peak_memory_gb"] < plan["memory_limit_gb"]
        assert 0 < plan["hours"]["low"] < plan["hours"]["high"]
        assert plan["seconds_per_step"] > 0
        assert plan["disk_gb"] < plan["free_disk_gb"]
        told = _options(plan)
        assert told["lora_rank"]["value"] == 8
        assert "given as r" in told["lora_rank"]["why"]
        assert told["lora_scale"]["value"] == 4.0
        assert "÷" in told["lora_scale"]["why"]
        assert told["optimizer"]["why"] == "recommended"
        assert plan["rows"]["proved"] == plan["rows"]["train"] + plan["rows"]["valid"]
        assert plan["recipe"]["max_seq_length"] % 32 == 0
        assert plan["rows"]["longest_tokens"] <= plan["recipe"]["max_seq_length"]
        step = reply["next_step"]
        assert (step["tool"], step["arguments"]) == ("train", {"run_id": run_id, "options": options})
        status = await agent.call("get_status", run_id=run_id)
        assert {line["stage"]: line["state"] for line in status["stages"]}["train"] == "new"
        assert not (bench.run_folder(run_id) / "dataset").exists()

        jobs = len(list((bench.run_folder(run_id) / "jobs").iterdir()))
        again = await agent.call("train", run_id=run_id, dry_run=True, options=options)
        assert again["result"] == plan
        assert len(list((bench.run_folder(run_id) / "jobs").iterdir())) == jobs, (
            "the same question is answered from the file"
        )

        trained = await agent.finish(run_id, "train", options=options)
        assert trained["state"] == "done", trained["message"]
    assert trained["result"]["recipe"] == plan["recipe"]
    assert trained["result"]["planned"]["hours"] == plan["hours"]
    (job,) = (bench.run_folder(run_id) / "jobs").glob("*-train")
    assert not (job / "probe.json").exists(), "what was probed is not probed again"


@pytest.mark.slow
async def test_a_student_that_does_not_fit_walks_down_the_ladder_and_training_goes_there(bench: Bench) -> None:
    """On a machine with little memory a smaller batch of the same effect is what a person would try first."""
    run_id = amplified_run(bench)
    options = {**SHORT, "max_memory_gb": 0.51}
    async with bench.connect() as agent:
        reply = await agent.plan_training(run_id, **options)
        assert reply["state"] == "done", reply["message"]
        plan = reply["result"]
        assert plan["changes"], "it would have fitted"
        assert plan["peak_memory_gb"] <= 0.01
        tried = plan["tried"]
        assert [attempt["rung"] for attempt in tried] == list(range(len(tried)))
        assert [attempt["fits"] for attempt in tried] == [False] * (len(tried) - 1) + [True]
        recipe = plan["recipe"]
        assert recipe["batch_size"] * recipe["grad_accumulation_steps"] == SHORT["batch_size"]
        assert "Given up to fit: batch_size" in reply["message"]
        told = _options(plan)["batch_size"]
        assert told["value"] == recipe["batch_size"]
        assert "to fit into 0.01 GB" in told["why"]
        trained = await agent.finish(run_id, "train", options=options)
    assert trained["result"]["recipe"] == recipe
    assert trained["result"]["peak_memory_gb"] <= 0.011


async def test_a_student_that_cannot_fit_is_refused_with_what_would(bench: Bench) -> None:
    """Neither the server nor the machine goes down with it."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        reply = await agent.plan_training(run_id, max_memory_gb=0.5001)
        assert reply["state"] == "failed"
        assert "weights alone take 0.000" in reply["message"]
        assert "can be spared: options.max_memory_gb=0.5, and" in reply["message"]
        assert "clone_run" in reply["message"]
        status = await agent.call("get_status", run_id=run_id)
        assert {line["stage"]: line["state"] for line in status["stages"]}["train"] == "new"


@pytest.mark.slow
async def test_a_plan_names_what_will_be_missing_in_the_end(bench: Bench, tmp_path: Path) -> None:
    """Whoever wants Ollama must learn before the hours of training that this student's family has no GGUF form here."""
    student = make_tiny(tmp_path / "olmo2", "llama")
    write_random_weights(student, json.loads((student / "config.json").read_bytes()) | {"model_type": "olmo2"})
    run_id = amplified_run(bench, student)
    async with bench.connect() as agent:
        plan = (await agent.plan_training(run_id, **SHORT))["result"]
    assert [told for told in plan["warnings"] if "export_gguf will write no GGUF file of this student" in told]


@pytest.mark.slow
async def test_planning_another_training_leaves_the_finished_one_alone(bench: Bench, demo: Demo) -> None:
    """Looking at what another recipe would take must not cost the adapter that is there."""
    run_id = bench.adopt(demo)
    folder = bench.run_folder(run_id)
    names = ("training.json", "model/adapters/adapters.safetensors", "dataset/train.jsonl")
    before = {name: (folder / name).read_bytes() for name in names}
    async with bench.connect() as agent:
        reply = await agent.finish(
            run_id, "train", dry_run=True, options={**SHORT, "mlx_lm": {"iters": 3, "num_layers": 1}}
        )
        assert reply["state"] == "done", reply["message"]
        assert reply["result"]["recipe"]["iters"] == 3
        assert reply["next_step"]["arguments"]["restart"] is True
        status = await agent.call("get_status", run_id=run_id)
        assert {line["state"] for line in status["stages"]} == {"done"}
    assert {name: (folder / name).read_bytes() for name in names} == before


async def test_a_local_teacher_is_read_from_allowed_directories_alone(bench: Bench) -> None:
    """It is named in a call, and a call names no folder the user did not allow; nothing is started for it."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        for dry_run in (True, False):
            told = await agent.refused("train", run_id=run_id, options={"local_teacher": "/etc"}, dry_run=dry_run)
            assert "outside the directories this server may read" in told
            told = await agent.refused("train", run_id=run_id, options={"distill_alpha": 0.5}, dry_run=dry_run)
            assert "there is none" in told
    assert not list((bench.run_folder(run_id) / "jobs").glob("*train*"))
