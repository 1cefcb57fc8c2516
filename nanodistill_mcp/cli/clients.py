"""The clients this server can be put into: where each keeps its configuration, and how each takes a key.

A key's value is never written. Each client is given the variable's name in its own way, and the user is told where the
value goes.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.cli.notations import Entry, Notation

SERVER = "nanodistill"
"""The name of the entry, in every client."""

Keys = Literal["inherits", "placeholder", "reference", "asks", "forwards", "keyring"]
"""How a client comes by a key.

inherits: it hands its own environment on. placeholder: the user writes it into the entry. reference: the entry refers to
the client's environment. asks: it asks the user and keeps the answer. forwards: it hands on the variables that are
named. keyring: it takes it from its own store, or its environment.
"""


@dataclass(frozen=True)
class AgentClient:
    """A program that the server can be put into."""

    name: str
    title: str
    notation: Notation
    group: str
    keys: Keys
    then: str
    reference: str = ""
    """How the client writes a variable's value, with NAME in its place."""

    def path(self, home: Path, environment: Mapping[str, str], platform: str = sys.platform) -> Path:
        """The user's configuration file."""
        mac = platform == "darwin"
        support = (
            home / "Library" / "Application Support" if mac else _or(environment, "XDG_CONFIG_HOME", home, ".config")
        )
        match self.name:
            case "claude-code":
                return _or(environment, "CLAUDE_CONFIG_DIR", home) / ".claude.json"
            case "claude-desktop":
                return support / "Claude" / "claude_desktop_config.json"
            case "cursor":
                return home / ".cursor" / "mcp.json"
            case "vscode":
                return support / "Code" / "User" / "mcp.json"
            case "codex":
                return _or(environment, "CODEX_HOME", home, ".codex") / "config.toml"
            case "goose":
                return _or(environment, "XDG_CONFIG_HOME", home, ".config") / "goose" / "config.yaml"
            case "windsurf":
                return home / ".codeium" / "windsurf" / "mcp_config.json"
            case _:
                return home / ".gemini" / "settings.json"

    def entry(self, command: Sequence[str], keys: Sequence[str], plain: Mapping[str, str]) -> Entry:
        """The server's entry, in this client's words.

        Args:
            command: The program with its absolute path, and its arguments.
            keys: The variables whose values are secret.
            plain: Variables that are written with their values.
        """
        program, *arguments = command
        referred = (
            {name: self._referred(name) for name in keys}
            if self.keys not in ("inherits", "forwards", "keyring")
            else {}
        )
        env = {**plain, **referred}
        match self.name:
            case "codex":
                made: Entry = {"command": program, "args": arguments, "startup_timeout_sec": 60}
                return {**made, **({"env_vars": list(keys)} if keys else {}), **({"env": env} if env else {})}
            case "goose":
                made = {"name": SERVER, "type": "stdio", "enabled": True, "cmd": program, "args": arguments}
                return {**made, "envs": env, "env_keys": list(keys), "timeout": 300}
            case "claude-code" | "vscode":
                return {"type": "stdio", "command": program, "args": arguments, "env": env}
            case _:
                return {"command": program, "args": arguments, "env": env}

    def questions(self, keys: Sequence[str]) -> list[Entry]:
        """What VS Code asks the user, once; its answers lie in its secret storage."""
        if self.keys != "asks":
            return []
        return [
            {
                "type": "promptString",
                "id": question_id(name),
                "description": f"{name} (for the teacher)",
                "password": True,
            }
            for name in keys
        ]

    def where_keys_go(self, keys: Sequence[str], path: Path) -> str:
        """What the user has to do so that the server sees the keys."""
        if not keys:
            return 'No key was asked for: with teacher="host" the agent itself is the teacher; a configured endpoint may need none.'
        names = " and ".join(keys)
        match self.keys:
            case "inherits":
                return f"{self.title} hands its environment on: export {names} in the shell that starts it."
            case "placeholder":
                return (
                    f"{self.title} does not pass your shell's environment. Write the key between the quotes behind {names} in {path}, "
                    "or install the .mcpb bundle instead, which keeps it in the system's own store."
                )
            case "reference":
                return (
                    f"The entry refers to {names} in {self.title}'s own environment. Started from a dock or a menu, a program does not "
                    "have your shell's: start it from a shell that exports it."
                )
            case "asks":
                return (
                    f"{self.title} asks for {names} when the server first starts, and keeps it in its secret storage."
                )
            case "forwards":
                return f"{self.title} passes only the variables that are named: export {names} in the shell that starts it."
            case "keyring":
                return (
                    f"{self.title} takes {names} from its environment or from its own store: export it, or add it with 'goose configure'. "
                    "Without it this extension does not load; --no-env leaves it out."
                )

    def _referred(self, name: str) -> str:
        return f"${{input:{question_id(name)}}}" if self.keys == "asks" else self.reference.replace("NAME", name)


def question_id(name: str) -> str:
    """The name under which VS Code keeps an answer."""
    return f"{SERVER}-{name.lower().replace('_', '-')}"


CLIENTS: dict[str, AgentClient] = {
    client.name: client
    for client in (
        AgentClient(
            "claude-code", "Claude Code", "json", "mcpServers", "inherits", "Start 'claude', and look with /mcp."
        ),
        AgentClient(
            "claude-desktop",
            "Claude Desktop",
            "json",
            "mcpServers",
            "placeholder",
            "Quit Claude Desktop and start it again.",
        ),
        AgentClient("cursor", "Cursor", "json", "mcpServers", "reference", "Look under Settings, MCP.", "${env:NAME}"),
        AgentClient(
            "vscode",
            "VS Code",
            "jsonc",
            "servers",
            "asks",
            "Start the server in mcp.json, or with 'MCP: List Servers'.",
        ),
        AgentClient("codex", "Codex", "toml", "mcp_servers", "forwards", "Start 'codex', and look with /mcp."),
        AgentClient("goose", "goose", "yaml", "extensions", "keyring", "Start a new session."),
        AgentClient(
            "windsurf",
            "Windsurf",
            "json",
            "mcpServers",
            "reference",
            "Refresh the list of servers in its settings.",
            "${env:NAME}",
        ),
        AgentClient(
            "gemini", "Gemini CLI", "jsonc", "mcpServers", "reference", "Start 'gemini', and look with /mcp.", "${NAME}"
        ),
    )
}


def further(client: AgentClient, keys: Sequence[str]) -> dict[str, Any]:
    """What stands beside the servers in the file, because of this one."""
    return {"inputs": asked} if (asked := client.questions(keys)) else {}


def _or(environment: Mapping[str, str], name: str, home: Path, *below: str) -> Path:
    return Path(environment[name]).expanduser() if environment.get(name) else home.joinpath(*below)
