"""``nanodistill-mcp run SPEC``: a whole run without an agent. A client of the server, as every other one.

The file holds what create_run takes, by name, and under ``stages`` what single stages are given. Called again with the same
file it goes on where it stopped, and pays for nothing twice.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.server.artifacts import clean
from nanodistill_mcp.settings import HOST_TEACHER, load_settings

_PATHS = ("seed_path", "test_path", "inputs_path")
_LIVING = ("queued", "running", "paused")
_SAYS_AGAIN_S = 10.0
_ANSWERS_WITHIN_S = 120.0

Shows = Callable[[dict[str, Any]], None]


class _StoppedError(Exception):
    """The run cannot go on; why was printed where it was met."""


def run_spec(home: Path, spec_path: Path, *, until: str, anyway: bool) -> int:
    """Carry a run out from its file. The exit code is 0 when every stage wanted is done, 1 when one is not.

    Raises:
        UserInputError: The file is not one, or names what there is not.
    """
    spec = read_spec(spec_path)
    given: dict[str, dict[str, Any]] = spec.pop("stages", {})
    stages = PIPELINE[: PIPELINE.index(until) + 1] if until in PIPELINE else PIPELINE
    environment = {**os.environ, "NANODISTILL_HOME": str(home)}
    if any(name in spec or name in spec.get("options", {}) for name in _PATHS):  # whoever gives the file names them
        allowed = [*load_settings(home).allowed_paths, spec_path.parent.absolute()]
        environment["NANODISTILL_ALLOWED_PATHS"] = os.pathsep.join(map(str, allowed))
    server = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=environment)

    async def drive() -> None:
        async with Client(server) as client:
            driver = _Driver(client, str(spec.get("name", "")))
            await driver.create(spec)
            for stage in stages:
                reply = await driver.stage(stage, given.get(stage, {}))
                if stage == "synthesize_cot" and reply["next_step"]["tool"] == "read_artifact" and not anyway:
                    print(
                        f"Stopped before anything more is paid: {clean(reply['next_step']['why'])}\nTo go on: --anyway"
                    )
                    raise _StoppedError
            await driver.finish()

    code = 0
    try:
        anyio.run(drive)
    except* _StoppedError:
        code = 1
    except* KeyboardInterrupt:
        code = 130
        name = spec.get("name", "")
        print(f"\nYou left; a job that runs goes on by itself. To follow it: nanodistill-mcp run {spec_path}")
        print(f"To end it: nanodistill-mcp control {name} cancel")
    return code


def read_spec(path: Path) -> dict[str, Any]:
    """The arguments of create_run in a YAML or JSON file, with the paths in it made absolute.

    Raises:
        UserInputError: It is not such a file.
    """
    import yaml

    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise UserInputError(
            "The file cannot be read as YAML.", next_step="See docs/command-line.md for one."
        ) from None
    if not isinstance(value, dict):
        raise UserInputError("The file holds no names and values.", next_step="See docs/command-line.md for one.")
    spec: dict[str, Any] = {str(name): given for name, given in cast("dict[Any, Any]", value).items()}
    stages: Any = spec.get("stages", {})
    if not isinstance(stages, dict) or not all(
        isinstance(one, dict) for one in cast("dict[Any, Any]", stages).values()
    ):
        raise UserInputError("stages is not a mapping of stages to arguments.", next_step="See docs/command-line.md.")
    if unknown := [str(stage) for stage in cast("dict[Any, Any]", stages) if stage not in PIPELINE]:
        raise UserInputError(
            f"There is no stage {unknown[0][:40]!r}.", next_step=f"Stages, in their order: {', '.join(PIPELINE)}."
        )
    if spec.get("teacher") == HOST_TEACHER:
        raise UserInputError(
            "teacher: host means the agent that calls, and here there is none.",
            next_step="Name a LiteLLM model or an endpoint of the configuration, or let an agent do this run.",
        )
    options: Any = spec.get("options", {})
    for holder in (spec, options):
        for name in _PATHS:
            if isinstance(holder, dict) and isinstance(given := cast("dict[str, Any]", holder).get(name), str):
                holder[name] = str(path.parent.absolute() / Path(given).expanduser())
    return spec


class _Driver:
    """The calls of one run, and what a person sees of them."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._rich = Console() if sys.stdout.isatty() else None

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; an error ends the command with its text."""
        result = await self._client.call_tool(tool, arguments, read_timeout_seconds=_ANSWERS_WITHIN_S)
        if result.is_error or result.structured_content is None:
            told = " ".join(getattr(block, "text", "") for block in result.content)
            print(clean(told.removeprefix(f"Error executing tool {tool}: ")), file=sys.stderr)
            raise _StoppedError
        return result.structured_content

    async def create(self, spec: dict[str, Any]) -> None:
        reply = await self.call("create_run", **spec)
        plan = reply["plan"]
        cost, calls = plan["cost_usd"], plan["teacher_calls"]
        costs = f"${cost['low']:.2f}-{cost['high']:.2f}" if cost else "at a price that is not known"
        print(
            f"{'Created' if reply['created'] else 'Going on with'} {reply['run_id']} in {reply['folder']}\n"
            f"{plan['train_seeds']} examples, {plan['target_examples']} wanted, {plan['held_out']} held out; "
            f"{calls['low']:.0f}-{calls['high']:.0f} calls of {clean(reply['teacher'])}, {costs}; student {reply['student']}",
            flush=True,
        )

    async def stage(self, stage: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Start or join a stage and follow it to its end."""
        line = await self.call(stage, run_id=self._run_id, wait_s=0, **arguments)
        if line["state"] in _LIVING:
            line = await (self._with_a_bar(stage) if self._rich else self._follow(stage, _Lines(stage)))
        if line["state"] != "done":  # calling it again would start it again
            print(f"{stage} {line['state']}: {clean(line['message'])}", file=sys.stderr)
            raise _StoppedError
        reply = await self.call(stage, run_id=self._run_id, wait_s=0, **arguments)
        print(f"{stage}: {clean(reply['message'])}", flush=True)
        return reply

    async def _with_a_bar(self, stage: str) -> dict[str, Any]:
        columns = (
            TextColumn("{task.description:<15}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._rich, transient=True) as progress:
            bar = progress.add_task(stage, total=None, note="")

            def show(line: dict[str, Any]) -> None:
                note = clean(line["message"])
                progress.update(bar, total=line["total"] or None, completed=line["done"], note=note)

            return await self._follow(stage, show)

    async def _follow(self, stage: str, show: Shows) -> dict[str, Any]:
        while True:
            status = await self.call("get_status", run_id=self._run_id, wait_s=2)
            line = next(entry for entry in status["stages"] if entry["stage"] == stage)
            if line["state"] not in _LIVING:
                return line
            show(line)

    async def finish(self) -> None:
        status = await self.call("get_status", run_id=self._run_id)
        print(f"Done for ${status['spend']['cost_usd']:.2f}. Everything lies in {status['folder']}")


class _Lines:
    """Progress where there is no terminal: a line when the state changes, and now and then in between."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._said: tuple[str, int] = ("", -1)
        self._said_s = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        """Say where the stage is, unless it was said just now."""
        now_s, says = time.monotonic(), (line["state"], line["done"])
        if says[0] == self._said[0] and (says == self._said or now_s - self._said_s < _SAYS_AGAIN_S):
            return
        self._said, self._said_s = says, now_s
        count = f" {line['done']} of {line['total']}" if line["total"] else ""
        print(f"{self._stage} {line['state']}{count} {clean(line['message'])}".rstrip(), flush=True)
