"""``nanodistill-mcp install``: puts this server into a client's configuration, and takes it out again.

The file is read, one entry of it is changed, and it is replaced at once, after a copy of what it was. A program that
changed it meanwhile wins. No key is written.
"""

import difflib
import os
import re
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nanodistill_mcp.cli.clients import CLIENTS, SERVER, AgentClient, further, question_id
from nanodistill_mcp.cli.entries import drop, drop_input, entry_of, put, put_input, render
from nanodistill_mcp.cli.notations import Entry, NotEditableError, parse
from nanodistill_mcp.errors import ConfigurationError, UserInputError
from nanodistill_mcp.runs.files import write_atomic
from nanodistill_mcp.server.artifacts import clean

DEFAULT_KEY = "ANTHROPIC_API_KEY"
_BACKUP = ".before-nanodistill"
_KEPT = ("NANODISTILL_HOME", "NANODISTILL_CONFIG")
_START_S = 60.0
_MAX_BYTES = 32 << 20
_SECRET = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)


@dataclass(frozen=True)
class _Asked:
    """What is to go into which file."""

    client: AgentClient
    path: Path
    command: list[str]
    keys: list[str]
    plain: dict[str, str]

    @property
    def entry(self) -> Entry:
        return self.client.entry(self.command, self.keys, self.plain)

    def snippet(self) -> str:
        return snippet(self.client, self.command, self.keys, self.plain)


def install(name: str, *, keys: Sequence[str], dry_run: bool, undo: bool) -> int:
    """Put the server into a client, show what that would change, or take it out.

    Raises:
        UserInputError: There is no such client, or a key was given by value.
        ConfigurationError: The file cannot be edited safely, or the server does not start.
    """
    if not name:
        return _list()
    if name not in CLIENTS:
        raise UserInputError("That client is not known.", next_step=f"Known: {', '.join(CLIENTS)}.")
    if any(not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", key) for key in keys):
        raise UserInputError(
            "A variable is given by its name alone.",
            next_step=f"For example --env {DEFAULT_KEY}; its value is never written.",
        )
    client = CLIENTS[name]
    plain = {variable: os.environ[variable] for variable in _KEPT if os.environ.get(variable)}
    asked = _Asked(client, client.path(Path.home(), os.environ), [] if undo else server_command(), list(keys), plain)
    return _undo(asked, dry_run=dry_run) if undo else _put(asked, dry_run=dry_run)


def server_command() -> list[str]:
    """The command that starts this installation's server: absolute, and independent of where it is started.

    Raises:
        ConfigurationError: This environment is a temporary one.
    """
    if re.search(r"archive-v\d+", sys.prefix):
        raise ConfigurationError(
            "This environment is uvx's own and may be removed at any time.",
            next_step="Install it first: uv tool install nanodistill-mcp; then nanodistill-mcp install.",
        )
    script = Path(sys.executable).absolute().parent / "nanodistill-mcp"
    if os.access(script, os.X_OK):
        return [str(script), "serve"]
    # Without -P the folder that the client starts in is searched for modules first.
    return [str(Path(sys.executable).absolute()), "-P", "-m", "nanodistill_mcp", "serve"]


def snippet(client: AgentClient, command: Sequence[str], keys: Sequence[str], plain: Mapping[str, str]) -> str:
    """What a person would paste into the client's configuration."""
    return render(client.notation, client.group, SERVER, client.entry(command, keys, plain), **further(client, keys))


def added_by_command(command: Sequence[str], plain: Mapping[str, str]) -> list[str]:
    """How Claude Code itself adds the server."""
    environment = [word for name, value in plain.items() for word in ("--env", f"{name}={value}")]
    return ["claude", "mcp", "add", SERVER, "--scope", "user", *environment, "--", *command]


def _list() -> int:
    print("Give one with --client:")
    for client in CLIENTS.values():
        path = client.path(Path.home(), os.environ)
        try:
            there = entry_of(client.notation, _read(path), client.group, SERVER) is not None
            state = "has the server" if there else "was found" if path.parent.is_dir() and path.exists() else "-"
        except (NotEditableError, ConfigurationError):
            state = "has a file that cannot be edited"
        print(f"  {client.name:<15} {state:<16} {path}")
    return 0


def _put(asked: _Asked, *, dry_run: bool) -> int:
    client = asked.client
    try:
        path = _beneath_home(asked.path)
        before = _read(path)
        known = entry_of(client.notation, before, client.group, SERVER)
        after = with_entry(client, before, _merged(known, asked.entry), asked.keys)
    except NotEditableError as error:
        raise _refused(asked, error) from None
    program = shutil.which("claude") if client.name == "claude-code" and known is None else None
    if dry_run:
        if program:
            print(f"Would run: {shlex.join(added_by_command(asked.command, asked.plain))}")
        else:
            _show(path, before, after)
        print(client.where_keys_go(asked.keys, path))
        return 0
    import anyio

    took_s, version = anyio.run(_started, asked.command, asked.plain)
    if before == after:
        print(f"{client.title} has this entry already, in {path}.")
    else:
        if known is None or not _backup(path).exists():
            _copy(path, before)
        if not (program and _added(program, asked, path)):
            _replace(path, before, after)
        print(f"{client.title} has the server now, in {path}. What the file was: {_backup(path)}")
    print(f"{shlex.join(asked.command)} was started and answered in {took_s:.1f} s as {version}.")
    print(client.where_keys_go(asked.keys, path))
    print(client.then)
    return 0


def _undo(asked: _Asked, *, dry_run: bool) -> int:
    client = asked.client
    try:
        path = _beneath_home(asked.path)
        now = _read(path)
        if (entry := entry_of(client.notation, now, client.group, SERVER)) is None:
            print(f"{client.title} does not have the server: nothing to undo in {path}.")
            return 0
        before = _read(_backup(path)) if _backup(path).exists() else None
        after = without_entry(client, now, entry, before)
    except NotEditableError as error:
        raise ConfigurationError(
            f"The server cannot be taken out of {asked.path}: {error}. Nothing was changed.",
            next_step=f"Remove the entry {SERVER} under {client.group} by hand.",
        ) from None
    if dry_run:
        _show(path, now, after)
        return 0
    if after or before is None:
        _replace(path, now, after)
    else:
        path.unlink()
    _backup(path).unlink(missing_ok=True)
    print(f"{client.title} is as it was before, in {path}.")
    return 0


def with_entry(client: AgentClient, text: str, entry: Entry, keys: Sequence[str]) -> str:
    """The text with the server's entry, and with what a client asks its user because of it."""
    for question in client.questions(keys):
        text = put_input(put(client.notation, text, client.group, SERVER, entry), question)
    return put(client.notation, text, client.group, SERVER, entry)


def without_entry(client: AgentClient, now: str, entry: Entry, before: str | None) -> str:
    """The text as it was, when nothing else has changed since; else with the entry alone as it was."""
    keys = [name for name in entry.get("env", {}) if client.keys == "asks" and question_id(name) in now]
    former = None
    if before is not None:
        former = entry_of(client.notation, before, client.group, SERVER)
        try:
            if with_entry(client, before, entry, keys) == now:
                return before
        except NotEditableError:
            pass  # then it is edited as any other
    if former is None:
        now = drop(client.notation, now, client.group, SERVER)
    else:
        now = put(client.notation, now, client.group, SERVER, former)
    for question in (question_id(key) for key in keys):
        if f'"{question}"' not in (before or ""):
            now = drop_input(now, question)
    return now


def _merged(known: Entry | None, entry: Entry) -> Entry:
    """What the user added to the entry stays, and so does a key that the user wrote."""
    if known is None:
        return entry
    merged = {**known, **entry}
    for group in ("env", "envs"):
        if isinstance(merged.get(group), dict) and isinstance(known.get(group), dict):
            merged[group] = {**entry.get(group, {}), **known[group]}
            merged[group].update({name: value for name, value in entry.get(group, {}).items() if name in _KEPT})
    return merged


async def _started(command: Sequence[str], plain: Mapping[str, str]) -> tuple[float, str]:
    """Start the server once as a client does, and speak with it."""
    import anyio
    from mcp import Client, StdioServerParameters

    began_s = time.monotonic()
    server = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(plain), cwd=Path.home())
    try:
        with anyio.fail_after(_START_S):
            async with Client(server, mode="legacy") as client:
                answered = client.server_info
                assert answered is not None  # noqa: S101 - every server names itself when it is initialized
                return time.monotonic() - began_s, f"{answered.name} {answered.version}"
    except Exception:  # noqa: BLE001 - whatever stops it, nothing is written, and doctor finds out what it is
        raise ConfigurationError(
            "The server does not start, so nothing was changed.", next_step="See above, and run nanodistill-mcp doctor."
        ) from None


def _added(program: str, asked: _Asked, path: Path) -> bool:
    """Let Claude Code add the server itself; False when it did not."""
    import anyio

    async def run() -> int:
        with anyio.move_on_after(_START_S):
            words = added_by_command(asked.command, asked.plain)[1:]
            return (await anyio.run_process([program, *words], check=False, stdin=None)).returncode
        return 1

    try:
        code = anyio.run(run)
        return code == 0 and entry_of("json", _read(path), asked.client.group, SERVER) is not None
    except (OSError, NotEditableError):
        return False


def _beneath_home(path: Path) -> Path:
    """Where a file lies when links are followed, which must not lead out of the home directory."""
    real = Path(os.path.realpath(path))
    if real != path.absolute() and not real.is_relative_to(os.path.realpath(Path.home())):
        raise NotEditableError("it is a link, or lies behind one, that leads out of your home directory")
    return real


def _read(path: Path) -> str:
    """A configuration file's text with its line ends; empty when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError:
        raise NotEditableError("it cannot be opened") from None
    with os.fdopen(fd, "rb") as stream:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise NotEditableError("it is not a plain file")
        try:
            return stream.read().decode("utf-8")
        except UnicodeDecodeError:
            raise NotEditableError("it is not UTF-8") from None


def _backup(path: Path) -> Path:
    return path.with_name(path.name + _BACKUP)


def _copy(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(_backup(path), text.encode())
    except OSError:
        raise _not_writable(path) from None


def _replace(path: Path, before: str, after: str) -> None:
    """Write the new text, unless somebody else wrote meanwhile. The file's permissions stay."""
    if _read(path) != before:
        raise ConfigurationError(
            f"{path} was changed by another program meanwhile. Nothing was written.", next_step="Do the same again."
        )
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        write_atomic(path, after.encode())
        path.chmod(mode)
    except OSError:
        raise _not_writable(path) from None


def _not_writable(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path.parent} cannot be written. Nothing was changed.",
        next_step="Make it writable for this user, and do the same again.",
    )


def _refused(asked: _Asked, error: NotEditableError) -> ConfigurationError:
    return ConfigurationError(
        f"{asked.path} is left as it is: {error}.", next_step=f"Put this into it yourself:\n\n{asked.snippet()}"
    )


def _show(path: Path, before: str, after: str) -> None:
    """The difference, without the lines around it: they may hold other servers' keys. What looks like one is masked."""
    if before == after:
        print(f"Nothing would change in {path}.")
        return
    hidden = sorted(_secrets(_parsed(before)), key=len, reverse=True)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{path} (now)", f"{path} (then)", n=0, lineterm=""
    )
    for line in lines:
        for value in hidden:
            line = line.replace(value, "…")  # noqa: PLW2901 - one value after the other
        print(clean(line))


def _parsed(text: str) -> Entry:
    for notation in ("jsonc", "toml", "yaml"):
        try:
            return parse(notation, text)
        except NotEditableError:
            continue
    return {}


def _secrets(value: object, name: str = "") -> set[str]:
    """The texts that may be secret: whatever is called so, and every variable's value."""
    match value:
        case dict():
            entries = cast("dict[str, Any]", value)
            inner = name if name in ("env", "envs", "headers") else ""
            return {text for key, each in entries.items() for text in _secrets(each, inner or str(key))}
        case list():
            return {text for each in cast("list[object]", value) for text in _secrets(each, name)}
        case str() if len(value) > 3 and (name in ("env", "envs", "headers") or _SECRET.search(name)):  # noqa: PLR2004
            return {value}
        case _:
            return set()
