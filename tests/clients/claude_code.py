"""The real Claude Code takes ten examples to a GGUF file, with a scripted model that knows nothing but the replies.

    npm install @anthropic-ai/claude-code
    python tests/clients/claude_code.py --claude node_modules/.bin/claude
    python tests/clients/claude_code.py --claude node_modules/.bin/claude --interactive

The server is put into Claude Code by ``nanodistill-mcp install``. Claude Code then talks to a model on the loopback whose
first turn is create_run and whose every further turn is the call that the last reply names in next_step. The teacher and
the student are the demo's. No key, no provider; a made-up key is what Claude Code wants to see. Interactively, in a
terminal, Claude Code keeps tasks: a long stage moves to the background, and the model is woken with its result.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script, only this folder would be looked at

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.run import AUGMENT_FACTOR, KEY_VARIABLE, OPTIONS, STAGES, TEACHER
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.teacher import serving
from nanodistill_mcp.runs.files import write_atomic, write_lines
from tests.clients.anthropic_model import Body, Calls, Says, ScriptedModel

ASKED = "Here are ten support tickets with the queue each belongs to. Make me a local model that sorts them."
RUN = "tickets"
PREFIX = "mcp__nanodistill__"
WITHIN_S = 560
MAX_TURNS = 120

READY = "The model is ready."
MADE_UP_KEY = "sk-ant-made-up-" + "0123456789" * 3

AFTER_THE_LAST = "compare_models"
"""The next step that is named when every stage is done."""


@dataclass
class Turn:
    """A call of the model, and what it received for it through Claude Code."""

    tool: str
    arguments: dict[str, Any]
    reply: dict[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""
    at_s: float = 0.0
    in_background: bool = False
    """Claude Code made a task of it, and woke the model at its end."""

    @property
    def next_step(self) -> dict[str, Any]:
        return self.reply.get("next_step", {})


@dataclass
class Follower:
    """A model that calls create_run, and then always what it was told to."""

    first: dict[str, Any]
    turns: list[Turn] = field(default_factory=list[Turn])
    looked_up: list[str] = field(default_factory=list[str])
    began_s: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    last_word: str = ""

    def turn(self, body: Body) -> Calls | Says:
        """The next turn, from nothing but the request."""
        offered = {tool["name"] for tool in body.get("tools", []) if not tool.get("defer_loading")}
        if not any(name.startswith(PREFIX) or name == "ToolSearch" for name in offered):
            return Says("Tickets")  # Claude Code also asks for a title
        step: dict[str, Any] = {"tool": "create_run", "arguments": self.first}
        if self.turns:
            self._receive(body["messages"])
            if not self.turns[-1].text:
                return Says("I go on when it ends.")
            if not (step := self.turns[-1].next_step):
                return self._ends(f"No next step: {self.turns[-1].text[:500]}")
        if step["tool"] == AFTER_THE_LAST:
            return self._ends(READY)
        if len(self.turns) >= MAX_TURNS:
            return self._ends("It does not end.")
        name = PREFIX + step["tool"]
        if (
            name not in offered and name not in self.looked_up
        ):  # Claude Code defers tools: their schema is asked for first
            self.looked_up.append(name)
            return Calls("ToolSearch", {"query": f"select:{name}", "max_results": 1})
        self.turns.append(Turn(step["tool"], step["arguments"]))
        return Calls(name, step["arguments"])

    def _receive(self, messages: list[Body]) -> None:
        """Read what came back for the last call, in the form in which Claude Code gives it to the model."""
        turn = self.turns[-1]
        if turn.text:
            return  # it was a look at a tool's schema that came back
        text = "\n".join(_texts(messages)) or "(nothing)"
        if "started server-side task" in text and "<task-notification>" not in text:
            turn.in_background = True
            return
        turn.text, turn.at_s = text, time.monotonic() - self.began_s
        if found := re.search(r"^\{", text, re.MULTILINE):
            turn.reply, _ = json.JSONDecoder().raw_decode(text[found.start() :])

    def _ends(self, word: str) -> Says:
        self.last_word = word
        self.ended.set()
        return Says(word)


def drive(claude: Path, folder: Path, *, interactive: bool = False) -> tuple[list[Turn], Path]:
    """One run, from ten examples to a GGUF file.

    Args:
        claude: Claude Code's program.
        folder: An empty folder: the home directory of everything that is started.
        interactive: In a terminal, as a person uses it, and not with ``-p``.

    Returns:
        The model's turns, and the run's folder.

    Raises:
        RuntimeError: Claude Code could not be given the server, or ended with an error.
    """
    home, project = folder / "nanodistill", folder / "project"
    project.mkdir(parents=True)
    home.mkdir()
    write_lines(folder / "held_out.jsonl", task.held_out())
    first: dict[str, Any] = {
        "name": RUN,
        "instruction": task.INSTRUCTION,
        "seed": task.seeds(),
        "teacher": TEACHER,
        "student": str(student_path()),
        "augment_factor": AUGMENT_FACTOR,
        "options": {**OPTIONS, "test_path": str(folder / "held_out.jsonl")},
    }
    follower = Follower(first)
    with serving() as teacher_url, ScriptedModel(follower.turn) as model:
        endpoint = {
            "model": "openai/desk",
            "api_base": teacher_url,
            "api_key_env": KEY_VARIABLE,
            "usd_per_mtok": [0, 0],
        }
        config = {"teachers": {TEACHER: endpoint}, "allowed_paths": [str(folder), str(student_path())]}
        write_atomic(home / "config.yaml", json.dumps(config).encode())
        environment = {
            "PATH": f"{claude.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "NANODISTILL_HOME": str(home),
            KEY_VARIABLE: "made-up",
            "ANTHROPIC_BASE_URL": model.base_url,
            "ANTHROPIC_API_KEY": MADE_UP_KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        installs = [
            sys.executable,
            "-m",
            "nanodistill_mcp",
            "install",
            "--client",
            "claude-code",
            "--env",
            KEY_VARIABLE,
        ]
        known = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}  # what a person was asked once
        asked = {"customApiKeyResponses": {"approved": [MADE_UP_KEY[-20:]]}, "projects": {str(project): known}}
        write_atomic(folder / ".claude.json", json.dumps({"hasCompletedOnboarding": True, **asked}).encode())
        print(_ends_well(installs, environment, project), flush=True)
        words = ["--allowedTools", PREFIX.removesuffix("__"), "--model", "claude-sonnet-4-5"]
        if interactive:
            _in_a_terminal(
                [str(claude), ASKED, *words], {**environment, "TERM": "xterm-256color"}, project, follower.ended
            )
        else:
            _ends_well(
                [str(claude), "-p", ASKED, *words, "--output-format", "stream-json", "--verbose"], environment, project
            )
    if follower.last_word != READY:
        raise RuntimeError(f"Claude Code did not get to the end: {follower.last_word}")
    return follower.turns, home / "runs" / RUN


def check(turns: list[Turn], run_folder: Path) -> None:
    """Hold the transcript against what was promised: each call but the first is the last reply's next step, to the end."""
    assert turns[0].tool == "create_run"
    for before, after in pairwise(turns):
        assert (after.tool, after.arguments) == (before.next_step["tool"], before.next_step["arguments"])
        assert before.next_step["why"]
    assert turns[-1].next_step["tool"] == AFTER_THE_LAST
    order = [turn.tool for turn in turns if turn.tool in STAGES]
    assert list(dict.fromkeys(order)) == list(STAGES)
    assert (run_folder / "model.gguf").read_bytes()[:4] == b"GGUF"


def transcript(turns: list[Turn]) -> str:
    """The conversation in short: each call, what it was answered, and the next step that came with it."""
    lines: list[str] = []
    for told, alike in groupby(turns, key=_told):
        number, last_s = 0, 0.0
        for turn in alike:
            number, last_s = number + 1, turn.at_s
        call, *rest = told
        lines += [f"{last_s:4.0f} s  -> {call}{f'   ({number} times)' if number > 1 else ''}", *rest]
    return "\n".join(lines)


def _told(turn: Turn) -> tuple[str, str, str]:
    reply, step = turn.reply, turn.next_step
    what = f"The run {reply['run_id']} is made." if turn.tool == "create_run" else _line(reply)
    return (
        f"{turn.tool}({_short(turn.arguments)})",
        f"        <- {'in the background; told at its end: ' if turn.in_background else ''}{what}",
        f"           next_step: {step['tool']}({_short(step['arguments'])}): {step['why']}",
    )


def _texts(messages: list[Body]) -> Iterator[str]:
    """The texts of the last message: what a call came back with, and what Claude Code tells beside it."""
    content: str | list[Body] = messages[-1]["content"]
    blocks: list[Body] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "text":
            yield block["text"]
        elif block["type"] == "tool_result":
            yield from _texts([{"content": block["content"]}])


def _in_a_terminal(command: list[str], environment: dict[str, str], folder: Path, ended: threading.Event) -> None:
    """Run a program in a terminal of its own until its model has said its last word; what it shows is thrown away."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    until_s = time.monotonic() + WITHIN_S
    try:
        while not ended.is_set() and process.poll() is None and time.monotonic() < until_s:
            if select.select([ours], [], [], 0.5)[0]:
                os.read(ours, 1 << 16)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def _ends_well(command: list[str], environment: dict[str, str], folder: Path) -> str:
    ended = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(
            f"{Path(command[0]).name} exited with {ended.returncode}: {(ended.stderr or ended.stdout)[-2000:]}"
        )
    return ended.stdout


def _line(reply: dict[str, Any]) -> str:
    stages = [f"{line['stage']} {line['state']}" for line in reply.get("stages", []) if line["state"] != "new"]
    told = f"{reply['state']}: {reply['message']}" if "state" in reply else ", ".join(stages)
    return " ".join(told.split())


def _short(arguments: dict[str, Any]) -> str:
    shown = {
        name: value for name, value in arguments.items() if name not in ("seed", "options", "student", "instruction")
    }
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in shown.items()) + (
        ", ..." if shown != arguments else ""
    )


def main() -> int:
    """Read the command line, drive, check, and print the transcript."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claude", default="claude", help="Claude Code's program (default: the one on the PATH)")
    parser.add_argument("--interactive", action="store_true", help="in a terminal, where Claude Code keeps tasks")
    given = parser.parse_args()
    program: str = given.claude
    interactive: bool = given.interactive
    found = shutil.which(program)
    if found is None:
        print(
            "Claude Code is not here: npm install @anthropic-ai/claude-code, then --claude node_modules/.bin/claude",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="nanodistill-claude-") as folder:
        turns, run_folder = drive(Path(found).absolute(), Path(folder), interactive=interactive)
        check(turns, run_folder)
        print(transcript(turns))
        size_mb = (run_folder / "model.gguf").stat().st_size / 1e6
    print(f"{len(turns)} calls; every one but the first was the last reply's next_step. model.gguf: {size_mb:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
