"""A run carried through its stages by a program: the calls an agent makes, and what a person sees of them."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from mcp import Client
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nanodistill_mcp.runs.texts import clean

LIVING = ("queued", "running", "paused")
_SAYS_AGAIN_S = 10.0
_ANSWERS_WITHIN_S = 120.0

Shows = Callable[[dict[str, Any]], None]
"""Is told a stage's line of get_status whenever there is a new one."""


class RefusedError(Exception):
    """A call was refused; the text says why and what to do."""


class EndedError(Exception):
    """A stage ended without being done."""

    def __init__(self, stage: str, line: dict[str, Any]) -> None:
        super().__init__(f"{stage} {line['state']}: {clean(line['message'])}")
        self.stage, self.line = stage, line


class StoppedError(Exception):
    """The teacher disagrees with so many examples that nothing more is paid without a word of the user; the text says why."""


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors that lie in a group and in the groups inside it."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += (
            leaves(cast("BaseExceptionGroup[BaseException]", error))
            if isinstance(error, BaseExceptionGroup)
            else [error]
        )
    return found


class Driver:
    """The calls of one run.

    Args:
        client: Is connected to the server.
        run_id: The run.
        quiet: Print nothing.
        follows: Is told where a stage is, by its line of get_status.
    """

    def __init__(self, client: Client, run_id: str, *, quiet: bool = False, follows: Shows | None = None) -> None:
        self._client = client
        self._run_id = run_id
        self._quiet = quiet
        self._follows = follows
        self._rich = Console() if sys.stdout.isatty() and not quiet else None

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool.

        Raises:
            RefusedError: It answers with an error.
        """
        result = await self._client.call_tool(tool, arguments, read_timeout_seconds=_ANSWERS_WITHIN_S)
        if result.is_error or result.structured_content is None:
            told = " ".join(getattr(block, "text", "") for block in result.content)
            raise RefusedError(clean(told.removeprefix(f"Error executing tool {tool}: ")))
        return result.structured_content

    async def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Make the run, or go on with the one that is there."""
        reply = await self.call("create_run", **spec)
        plan = reply["plan"]
        cost, calls = plan["cost_usd"], plan["teacher_calls"]
        costs = f"${cost['low']:.2f}-{cost['high']:.2f}" if cost else "at a price that is not known"
        self._say(
            f"{'Created' if reply['created'] else 'Going on with'} {reply['run_id']} in {reply['folder']}\n"
            f"{plan['train_seeds']} examples, {plan['target_examples']} wanted, {plan['held_out']} held out; "
            f"{calls['low']:.0f}-{calls['high']:.0f} calls of {clean(reply['teacher'])}, {costs}; student {reply['student']}"
        )
        return reply

    async def stage(self, stage: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Start or join a stage and follow it to its end.

        Raises:
            RefusedError: It cannot be started.
            EndedError: It ended without being done.
        """
        line = await self.call(stage, run_id=self._run_id, wait_s=0, **arguments)
        if line["state"] in LIVING:
            line = await (self._with_a_bar(stage) if self._rich else self._follow(stage, self._lines(stage)))
        if line["state"] != "done":  # calling it again would start it again
            raise EndedError(stage, line)
        reply = await self.call(stage, run_id=self._run_id, wait_s=0, **arguments)
        self._say(f"{stage}: {clean(reply['message'])}")
        return reply

    async def carry_out(
        self, stages: Sequence[str], given: Mapping[str, dict[str, Any]], *, anyway: bool
    ) -> dict[str, dict[str, Any]]:
        """Carry stages out in their order; what each found.

        Raises:
            StoppedError: The teacher cannot do the task well, and ``anyway`` was not said.
        """
        found: dict[str, dict[str, Any]] = {}
        for stage in stages:
            reply = await self.stage(stage, given.get(stage, {}))
            found[stage] = reply["result"]
            if stage == "synthesize_cot" and reply["next_step"]["tool"] == "read_artifact" and not anyway:
                raise StoppedError(f"Stopped before anything more is paid: {clean(reply['next_step']['why'])}")
        return found

    async def finish(self) -> dict[str, Any]:
        """Say what it cost and where everything lies."""
        status = await self.call("get_status", run_id=self._run_id)
        self._say(f"Done for ${status['spend']['cost_usd']:.2f}. Everything lies in {status['folder']}")
        return status

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def _lines(self, stage: str) -> Shows:
        return _nothing if self._quiet else _Lines(stage)

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
            if line["state"] not in LIVING:
                return line
            show(line)
            if self._follows:
                self._follows(line)


def _nothing(_: dict[str, Any]) -> None:
    """Show nothing."""


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
