"""Writes installation.md and what lies in examples/clients, from what ``nanodistill-mcp install`` itself would write.

python docs/make_installation.py
"""

import shlex
from pathlib import Path

from nanodistill_mcp.cli.clients import CLIENTS, AgentClient
from nanodistill_mcp.cli.installing import DEFAULT_KEY, added_by_command, snippet

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("/path/to/.venv/bin/nanodistill-mcp", "serve")
FILES = {
    "claude-desktop": "claude_desktop_config.json",
    "cursor": "cursor_mcp.json",
    "vscode": "vscode_mcp.json",
    "codex": "codex_config.toml",
    "goose": "goose_config.yaml",
    "windsurf": "windsurf_mcp_config.json",
    "gemini": "gemini_settings.json",
}
"""The files in examples/clients."""

HEAD = """\
# Installation in a client

<!-- Written by docs/make_installation.py; change it there. -->

```sh
nanodistill-mcp install                                    # which clients there are, and which have the server
nanodistill-mcp install --client claude-desktop --dry-run  # what would change
nanodistill-mcp install --client claude-desktop            # change it
nanodistill-mcp install --client claude-desktop --undo     # and back
nanodistill-mcp install --client codex --env OPENAI_API_KEY  # another teacher's key
nanodistill-mcp install --client cursor --no-env           # no key: the agent is the teacher, or a local one needs none
```

Before anything is written the server is started once, as the client will start it, and must answer. Then one entry of the file is
added or replaced, as text: other entries, comments, order and spacing stay. What the file was lies beside it
(`.before-nanodistill`, for this user alone). `--undo` gives that back when nothing else changed since; otherwise only the entry goes
back to what it was. A file that cannot be edited without losing something, is no plain file, or is a link that leads out of the home
directory, is left as it is, and the entry is printed for you to paste. `NANODISTILL_HOME` and `NANODISTILL_CONFIG`, where they are
set, go into the entry, so that the client sees the same runs.

**A key is never written.** `--env` takes the name of the variable (`ANTHROPIC_API_KEY` when left out, several times for several),
and each client is told the name in its own way; the sections below say where the value goes. With `teacher="host"` there is no key
at all.

The entries below are what `install` writes, with your path in place of `/path/to`. They also lie in
[examples/clients](../examples/clients). Driven by the real program so far: Claude Code. The others' files are
written as their makers describe them.
"""

BUNDLE = """
## Claude Desktop, as a bundle

```sh
python examples/mcpb/build.py   # nanodistill-mcp-VERSION.mcpb; open it, or Settings, Extensions, Install
```

The keys are asked for in a form and kept in the system's own store (Keychain on a Mac). The bundle holds this package's source; its
libraries are installed by `uv` when it first starts, so the first start takes minutes. Runs lie where those of the other clients lie.
Proved: the bundle's format, by its maker's validator, and a start of the unpacked bundle with `uv`; not yet seen in Claude Desktop.
"""


def page() -> str:
    """The page."""
    return HEAD + "".join(_section(client) for client in CLIENTS.values()) + BUNDLE


def files() -> dict[Path, str]:
    """Every file this writes, with what belongs in it."""
    made = {ROOT / "docs" / "installation.md": page()}
    folder = ROOT / "examples" / "clients"
    for name, file in FILES.items():
        made[folder / file] = snippet(CLIENTS[name], COMMAND, [DEFAULT_KEY], {})
    return made


def _section(client: AgentClient) -> str:
    home = Path("~")
    places = dict.fromkeys(str(client.path(home, {}, platform)) for platform in ("darwin", "linux"))
    path = " or, on Linux, ".join(f"`{place}`" for place in places)
    keys = client.where_keys_go([DEFAULT_KEY], Path(client.path(home, {}).name))
    also = "\nWith a skill that teaches the workflow, as a plugin: `claude --plugin-dir examples/claude-code-plugin`.\n"
    text = f"\n## {client.title}\n\n{path}\n\n"
    if client.name == "claude-code":
        text += f"```sh\n{shlex.join(added_by_command(COMMAND, {}))}\n```\n\nor, where `claude` is not on the PATH, in the file:\n\n"
    language = {"jsonc": "json"}.get(client.notation, client.notation)
    return f"{text}```{language}\n{snippet(client, COMMAND, [DEFAULT_KEY], {})}```\n\n{keys} {client.then}\n{also if client.name == 'claude-code' else ''}"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
