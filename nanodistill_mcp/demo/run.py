"""``nanodistill-mcp demo``: a client that works through a run exactly as an agent would, and shows it to a person.

It starts the server as a stdio child and speaks MCP to it. What is particular to the demo lies outside that: a teacher
that is a program behind a loopback HTTP server, and a student small enough for a CPU.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.teacher import serving
from nanodistill_mcp.runs.files import write_atomic, write_lines

TEACHER = "demo"
KEY_VARIABLE = "DEMO_TEACHER_KEY"
LARGE_MODEL_USD_PER_MTOK = (2.0, 10.0)
"""A current large model's price, to say what such a run would cost. The demo's teacher costs nothing."""

AUGMENT_FACTOR = 30
OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lora_scale": 20.0,
    "num_train_epochs": 8,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
}
"""A student of a few hundred thousand weights needs hotter training than a real one."""

PAID_STAGES = ("synthesize_cot", "extract_policy", "amplify")
STAGES = (*PAID_STAGES, "train", "evaluate", "export_gguf")
_TITLES = {
    "synthesize_cot": "The teacher solves your examples",
    "extract_policy": "What the task demands",
    "amplify": "New examples, each verified",
    "train": "The student learns",
    "evaluate": "Proof on held-out examples",
    "export_gguf": "One file for Ollama",
}
_SHOWN_QUESTIONS = 5
_BARS = "▁▂▃▄▅▆▇█"


class _StoppedError(Exception):
    """The demo cannot go on; what went wrong was printed where it was met."""


def run_demo(home: Path, *, seed: int, fresh: bool) -> int:
    """Run the demo. The exit code is 0 when the student beat its base."""
    console = Console()
    with serving() as base_url:
        try:
            code = anyio.run(partial(_demo, home, base_url, console, seed=seed, fresh=fresh))
        except* _StoppedError:
            code = 2
        except* KeyboardInterrupt:
            code = 130
            console.print(
                "\nStopped. What was finished is kept: run [bold]nanodistill-mcp demo[/bold] again to continue without paying twice."
            )
    return code


async def _demo(home: Path, base_url: str, console: Console, *, seed: int, fresh: bool) -> int:
    folder = home / "demo"
    test_path, config_path = folder / "held_out.jsonl", folder / "config.yaml"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_lines(test_path, task.held_out())
    write_atomic(config_path, _config(base_url, folder).encode())
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "nanodistill_mcp", "serve"],
        env={
            **os.environ,
            "NANODISTILL_HOME": str(home),
            "NANODISTILL_CONFIG": str(config_path),
            KEY_VARIABLE: "none-needed",
        },
    )
    name = f"demo-seed{seed}" if seed else "demo"
    async with Client(server) as client:
        agent = _Agent(client, console)
        await agent.prepare(name, fresh=fresh)
        await agent.create(name, seed, str(test_path))
        for stage in STAGES:
            await agent.stage(name, stage)
        return await agent.finish(name)


def _config(base_url: str, folder: Path) -> str:
    endpoint = {
        "model": "openai/support-desk-teacher",
        "api_base": base_url,
        "api_key_env": KEY_VARIABLE,
        "usd_per_mtok": [0, 0],
    }
    return json.dumps({"teachers": {TEACHER: endpoint}, "allowed_paths": [str(folder), str(student_path())]}, indent=1)


class _Agent:
    """The tool calls of the demo, and what a person sees of them."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._losses: list[float] = []
        self._seen_trace = False

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; an error ends the demo with its text."""
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            text = " ".join(getattr(block, "text", "") for block in result.content)
            self._console.print(Text(text, style="red"))
            raise _StoppedError
        return result.structured_content or {}

    async def prepare(self, name: str, *, fresh: bool) -> None:
        """Put an earlier run of this name away with ``--fresh``; else end a job of it whose teacher is gone."""
        runs = (await self.call("get_status"))["runs"]
        if not any(run["run_id"] == name for run in runs):
            return
        running = (await self.call("get_status", run_id=name))["running"]
        if running and (fresh or running in PAID_STAGES):  # the teacher it talks to ended with the demo that started it
            await self.call("control_job", run_id=name, action="cancel")
            while (await self.call("get_status", run_id=name, wait_s=5))["running"]:
                pass
        if fresh:
            await self.call("delete_run", run_id=name, confirm_name=name)

    async def create(self, name: str, seed: int, test_path: str) -> None:
        """create_run, and the plan it answers with."""
        options = {**OPTIONS, "test_path": test_path, "seed": seed}
        reply = await self.call(
            "create_run",
            name=name,
            instruction=task.INSTRUCTION,
            seed=task.seeds(),
            teacher=TEACHER,
            student=str(student_path()),
            augment_factor=AUGMENT_FACTOR,
            options=options,
        )
        plan = reply["plan"]
        self._console.print(
            Panel(
                f"{task.INSTRUCTION}\n\n"
                f"{plan['train_seeds']} examples in, {plan['target_examples']} wanted, {plan['held_out']} held out to prove it. "
                f"About {plan['teacher_calls']['low']:.0f}-{plan['teacher_calls']['high']:.0f} teacher calls; "
                "this teacher is a program, so nothing is paid.",
                title=f"Run {name}" + ("" if reply["created"] else ", continued"),
                title_align="left",
            )
        )

    async def stage(self, run_id: str, stage: str) -> dict[str, Any]:
        """Start or join a stage and follow it to its end."""
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(_TITLES[stage], total=None, note="")
            line = await self.call(stage, run_id=run_id, wait_s=0)
            while line["state"] in ("queued", "running", "paused"):
                status = await self.call("get_status", run_id=run_id, wait_s=1)
                line = next(entry for entry in status["stages"] if entry["stage"] == stage)
                self._show(progress, bar, stage, line)
            if line["state"] != "done":  # calling the stage again would start it again
                self._console.print(Text(line["message"], style="red"))
                raise _StoppedError
            reply = await self.call(stage, run_id=run_id, wait_s=0)
            total = max(1, reply["total"], int(progress.tasks[0].total or 1))
            progress.update(bar, total=total, completed=total, note=_note(stage, reply))
        if stage == "synthesize_cot" and not self._seen_trace:
            self._trace(reply["result"].get("first_trace"))
        return reply

    def _show(self, progress: Progress, bar: TaskID, stage: str, line: dict[str, Any]) -> None:
        live = line["live"]
        note = line["message"]
        if stage == "train" and "train_loss" in live:
            self._losses.append(live["train_loss"])
            note = f"loss {live['train_loss']:.3f} {_spark(self._losses)}"
        if trace := live.get("first_trace"):
            self._trace(trace)
        progress.update(bar, total=line["total"] or None, completed=line["done"], note=note)

    def _trace(self, trace: dict[str, str] | None) -> None:
        if trace and not self._seen_trace:
            self._seen_trace = True
            body = Text(f"{trace['input']}\n\n", style="bold")
            body.append(trace["thinking"], style="italic dim")
            body.append(f"\n→ {trace['output']}", style="green")
            self._console.print(Panel(body, title="The first trace", title_align="left"))

    async def finish(self, run_id: str) -> int:
        """The same held-out questions to base and GGUF student, and where to go from here."""
        status = await self.call("get_status", run_id=run_id, detail=True)
        scores, export = status["detail"]["evaluate"]["held_out"], status["detail"]["export_gguf"]
        questions = task.held_out()[:: max(1, len(task.held_out()) // _SHOWN_QUESTIONS)][:_SHOWN_QUESTIONS]
        reply = await self.call(
            "compare_models", run_id=run_id, prompts=[row["input"] for row in questions], models=["base", "gguf"]
        )
        table = Table(
            "Held-out message",
            "Right",
            "Base",
            "Student (model.gguf in llama.cpp)",
            title="The same questions",
            title_justify="left",
        )
        for question, row in zip(questions, reply["result"]["rows"], strict=True):
            right = row["gguf"]["answer"] == question["output"]
            student = Text(row["gguf"]["answer"], style="green" if right else "red")
            table.add_row(question["input"], question["output"], Text(row["base"]["answer"][:40], style="dim"), student)
        self._console.print(table)
        accuracy = Table(
            "On held-out messages", "Right", "95 % interval", title="Before and after", title_justify="left"
        )
        for label, part in (
            ("base", scores["base"]),
            ("student", scores["student"]),
            ("model.gguf (llama.cpp)", export["accuracy"]),
            ("teacher", scores["teacher"]),
        ):
            low, high = part["interval_95"]
            accuracy.add_row(
                label, f"{part['correct']} of {part['rows']} ({part['accuracy']:.0%})", f"{low:.0%} - {high:.0%}"
            )
        self._console.print(accuracy)
        self._console.print(f"{status['detail']['evaluate']['verdict']}\n", highlight=False)
        spend = status["spend"]
        usd_in, usd_out = LARGE_MODEL_USD_PER_MTOK
        price = (spend["input_tokens"] * usd_in + spend["output_tokens"] * usd_out) / 1e6
        self._console.print(
            f"Teacher: {spend['calls']} calls, {spend['input_tokens'] + spend['output_tokens']:,} tokens, nothing paid. "
            f"A large model at ${usd_in:g}/${usd_out:g} a million tokens would have cost ${price:.2f}.\n"
            f"Everything lies in {status['folder']}; report.md there says it on one page.\n",
            highlight=False,
            soft_wrap=True,
        )
        self._console.print(_connect(), highlight=False, soft_wrap=True)
        return 0 if scores["student"]["accuracy"] > scores["base"]["accuracy"] else 1


def _note(stage: str, reply: dict[str, Any]) -> str:
    result = reply["result"]
    match stage:
        case "synthesize_cot" if result:
            return f"agrees on {result['train_agree']} of {result['train_solved']}, held-out {result['held_out_agree']} of {result['held_out_solved']}"
        case "extract_policy" if result:
            return f"checker: {result['checker']}"
        case "amplify" if result:
            return f"{result['accepted']} accepted, {sum(result['rejected'].values())} rejected"
        case "train" if result:
            return f"loss {result['first_train_loss']:.3f} → {result['final_train_loss']:.3f}"
        case "evaluate" if result:
            return f"{result['held_out']['base']['accuracy']:.0%} → {result['held_out']['student']['accuracy']:.0%}"
        case "export_gguf" if result:
            return f"{result['gguf_bytes'] / 1e6:.1f} MB {result['quantization']}"
        case _:
            return str(reply["state"])


def _spark(values: list[float]) -> str:
    shown = values[-24:]
    low, high = min(values), max(values)
    return "".join(_BARS[round((value - low) / (high - low or 1) * (len(_BARS) - 1))] for value in shown)


def _connect() -> str:
    command = f"{Path(sys.executable).parent / 'nanodistill-mcp'}"
    return (
        f"Connect Claude Code:     claude mcp add nanodistill --scope user -- {command} serve\n"
        f"Connect another client:  {command} install --client claude-desktop   (or cursor, vscode, codex, ...)\n"
        "                         It says where your teacher's key goes. Then say: here are ten examples, make me a local model."
    )
