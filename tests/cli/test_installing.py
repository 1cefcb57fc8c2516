"""``install`` changes one entry of a client's file, gives it back, and writes no key."""

import json
import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanodistill_mcp.cli.clients import CLIENTS, SERVER
from nanodistill_mcp.cli.entries import drop, entry_of, put
from nanodistill_mcp.cli.installing import snippet, with_entry, without_entry
from nanodistill_mcp.cli.notations import NotEditableError, parse
from tests.cli.person import types

KEY = "ANTHROPIC_API_KEY"
COMMAND = ["/opt/nano distill/bin/nanodistill-mcp", "serve"]

JSON_TEXTS = (
    "",
    "{}",
    "{}\n",
    '{\n    "theme": "dark",\r\n    "mcpServers": {}\n}\n',
    '{"mcpServers": {"other": {"command": "x", "env": {"A": "1"}}}, "z": [1,  2]}',
    '{\n\t"mcpServers": {\n\t\t"other": {"command": "a \\" } b"}\n\t},\n\t"last": null\n}',
    '{\n  "numStartups": 3,\n  "projects": {"/x": {"mcpServers": {}}}\n}\n',
)
COMMENTED = (
    '// mine\n{\n  "servers": {\n    "a": {"command": "x"}, // keep "this"\n    /* and, this */\n  },\n}\n',
    "{\n  // nothing yet\n}\n",
    '{\n  "servers": {\n    "a": {"command": "x"} // the last one\n  },\n  "inputs": [\n    {"type": "promptString", "id": "k"},\n  ]\n}\n',
)
TOML_TEXTS = (
    "",
    'model = "m" # the best\n\n[mcp_servers.other]\ncommand = "x"\nargs = [\n  "[a]",\n]\n',
    '[mcp_servers.other]\ncommand = "x"\n[mcp_servers.other.env]\nA = "1"\n\n# of the profile\n[profiles.p]\nmodel = "m"',
)
YAML_TEXTS = (
    "",
    "GOOSE_MODEL: m # the best\n",
    "extensions:\n    developer:\n        enabled: true # yes\n        type: builtin\nGOOSE_PROVIDER: p\n",
    "extensions: {}\nGOOSE_PROVIDER: p\n",
)
TEXTS = (
    *(("claude-desktop", text) for text in JSON_TEXTS),
    *(("vscode", text.replace("mcpServers", "servers")) for text in (*JSON_TEXTS, *COMMENTED)),
    *(("codex", text) for text in TOML_TEXTS),
    *(("goose", text) for text in YAML_TEXTS),
)


@pytest.mark.parametrize(("name", "text"), TEXTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(TEXTS)])
def test_an_entry_goes_in_and_out_and_leaves_every_other_byte(name: str, text: str) -> None:
    """Comments, order and spacing are the user's, and so are the other servers."""
    client = CLIENTS[name]
    entry = client.entry(COMMAND, [KEY], {})
    made = with_entry(client, text, entry, [KEY])
    assert entry_of(client.notation, made, client.group, SERVER) == entry
    left = iter(made)
    assert all(letter in left for letter in text.replace("extensions: {}", "extensions:"))  # only ever added to
    assert with_entry(client, made, entry, [KEY]) == made
    assert without_entry(client, made, entry, text) == text
    other = client.entry(["/elsewhere"], [], {"NANODISTILL_HOME": "/x"})
    changed = put(client.notation, made, client.group, SERVER, other)
    assert entry_of(client.notation, changed, client.group, SERVER) == other
    assert entry_of(client.notation, drop(client.notation, changed, client.group, SERVER), client.group, SERVER) is None


@pytest.mark.parametrize(
    ("name", "before", "old", "new"),
    [
        ("claude-desktop", '{\n  "a": 1\n}\n', '"a": 1', '"a": 1,\n  "b": 2'),
        ("vscode", '{\n  "a": 1\n}\n', '"a": 1,', '"a": 1, // b'),
        ("codex", "a = 1\n", "a = 1\n", "a = 1\nb = 2\n"),
        ("goose", "a: 1\n", "a: 1\n", "a: 1\nb: 2 # b\n"),
    ],
)
def test_undo_keeps_what_changed_since(name: str, before: str, old: str, new: str) -> None:
    """To bring back the whole file would throw away what the user or the client did after the installation."""
    client = CLIENTS[name]
    entry = client.entry(COMMAND, [KEY], {})
    made = with_entry(client, before, entry, [KEY])
    assert old in made
    after = without_entry(client, made.replace(old, new), entry, before)
    assert SERVER not in after
    assert new in after


def test_undo_gives_back_the_entry_that_was_there_before() -> None:
    """A user may have written one by hand."""
    client = CLIENTS["cursor"]
    before = '{"mcpServers": {"nanodistill": {"command": "old"}, "other": {}}}'
    entry = client.entry(COMMAND, [], {})
    since = with_entry(client, before, entry, []).replace('"other": {}', '"other": {"command": "new"}')
    assert json.loads(without_entry(client, since, entry, before)) == {
        "mcpServers": {"nanodistill": {"command": "old"}, "other": {"command": "new"}}
    }


def test_undo_takes_back_only_the_questions_that_install_asked() -> None:
    """VS Code would ask for a key that nothing uses, or no longer for one that something does."""
    client = CLIENTS["vscode"]
    entry = client.entry(COMMAND, [KEY], {})
    for before in (
        '{"servers": {"nanodistill": {"command": "old"}}}',
        '{"inputs": [{"id": "nanodistill-anthropic-api-key"}]}',
    ):
        since = with_entry(client, before, entry, [KEY]) + "\n// since then\n"
        after = without_entry(client, since, entry, before)
        assert parse("jsonc", after).get("inputs", []) == parse("jsonc", before).get("inputs", [])
        assert after.endswith("// since then\n")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("claude-desktop", '{"a": 1} // note', "plain JSON"),
        ("claude-desktop", '{"mcpServers": []}', "not a mapping"),
        ("vscode", '{"servers": {"nanodistill": {/* mine */ "command": "x"}}}', "comments"),
        ("codex", 'mcp_servers = { other = { command = "x" } }\n', "safely"),
        ("codex", '[mcp_servers.nanodistill]\n# mine\ncommand = "x"\n', "comments"),
        ("goose", "extensions: {other: {type: builtin}}\n", "safely"),
        ("goose", "a: [\n", "not YAML"),
    ],
)
def test_what_cannot_be_edited_without_a_loss_is_refused(name: str, text: str, why: str) -> None:
    """A comment that is gone, or an entry that is rewritten, is noticed weeks later."""
    client = CLIENTS[name]
    with pytest.raises(NotEditableError, match=why):
        put(client.notation, text, client.group, SERVER, client.entry(COMMAND, [KEY], {}))


@pytest.mark.parametrize("client", CLIENTS.values(), ids=list(CLIENTS))
def test_every_snippet_names_the_command_and_holds_no_value_of_a_key(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pasted is what is installed."""
    monkeypatch.setenv(KEY, "sk-ant-secret")
    text = snippet(client, COMMAND, [KEY], {})
    loads = {"toml": tomllib.loads, "yaml": yaml.safe_load}.get(client.notation, json.loads)
    entry = loads(text)[client.group][SERVER]
    assert (entry.get("command") or entry["cmd"], entry["args"]) == (COMMAND[0], COMMAND[1:])
    assert "secret" not in text
    assert (KEY in text) == (client.keys != "inherits")
    assert KEY in client.where_keys_go([KEY], Path("/x"))
    assert client.path(Path("/home/x"), {}, "darwin").is_relative_to("/home/x")


def test_a_person_installs_looks_and_undoes(home: Path) -> None:
    """The server is started before anything is written; the user's key stays when it is installed again."""
    file = home / ".cursor" / "mcp.json"
    file.parent.mkdir()
    text = '{"mcpServers": {"other": {"command": "x", "env": {"OTHER_KEY": "sk-other-1"}}}}'
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    shown = types(home, "install", "--client", "cursor", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "+" in shown.stdout
    assert "sk-other-1" not in shown.stdout
    assert file.read_text("utf-8") == text
    told = types(home, "install", "--client", "cursor", env={KEY: "sk-ant-secret"})
    assert told.returncode == 0, told.stderr
    assert "answered in" in told.stdout
    entry = json.loads(file.read_text("utf-8"))["mcpServers"][SERVER]
    assert os.access(entry["command"], os.X_OK)
    assert entry["env"] == {"NANODISTILL_HOME": str(home), KEY: f"${{env:{KEY}}}"}
    backup = file.with_name("mcp.json.before-nanodistill")
    assert (backup.read_text("utf-8"), stat.S_IMODE(backup.stat().st_mode)) == (text, 0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    written = file.read_text("utf-8").replace(f"${{env:{KEY}}}", "sk-mine")
    file.write_text(written, encoding="utf-8")
    again = types(home, "install", "--client", "cursor")
    assert "already" in again.stdout
    assert file.read_text("utf-8") == written
    assert types(home, "install", "--client", "cursor", "--undo").returncode == 0
    assert file.read_text("utf-8") == text
    assert not backup.exists()


def test_a_link_out_of_the_home_directory_is_not_followed(home: Path, tmp_path: Path) -> None:
    """And the person is given what to paste. A link within the home directory stays one."""
    (tmp_path / "outside.json").write_text("{}", encoding="utf-8")
    (home / ".cursor").mkdir()
    (home / ".cursor" / "mcp.json").symlink_to(tmp_path / "outside.json")
    told = types(home, "install", "--client", "cursor")
    assert told.returncode == 2
    assert "leads out of your home" in told.stderr
    assert f'"{SERVER}"' in told.stderr
    assert (tmp_path / "outside.json").read_text("utf-8") == "{}"


def test_a_folder_that_cannot_be_written_is_named(home: Path) -> None:
    """A traceback would be all a person saw; as a folder stands where the copy goes, even root cannot write it."""
    (home / ".codeium" / "windsurf" / "mcp_config.json.before-nanodistill").mkdir(parents=True)
    (home / ".codeium" / "windsurf" / "mcp_config.json.before-nanodistill" / "x").touch()
    told = types(home, "install", "--client", "windsurf")
    assert (told.returncode, "cannot be written" in told.stderr) == (2, True)
    assert not (home / ".codeium" / "windsurf" / "mcp_config.json").exists()


def test_a_server_that_does_not_start_is_not_installed(home: Path) -> None:
    """The client would show a red dot and no reason."""
    (home / "config.yaml").write_text("no_such_key: 1", encoding="utf-8")
    told = types(home, "install", "--client", "windsurf")
    assert told.returncode == 2
    assert "does not start" in told.stderr
    assert "no_such_key" in told.stderr
    assert not (home / ".codeium").exists()


def test_a_key_given_by_value_is_refused(home: Path) -> None:
    """It would stand in the shell's history and in a file that is not made for it."""
    told = types(home, "install", "--client", "codex", "--env", f"{KEY}=sk-ant-secret")
    assert told.returncode == 2
    assert "sk-ant" not in told.stderr
    assert types(home, "install", "--client", "nobody").returncode == 2
    listed = types(home, "install")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(CLIENTS)


def test_the_command_does_not_depend_on_where_it_is_started() -> None:
    """Clients start it in the user's project, where a file may be called as one of our modules."""
    from nanodistill_mcp.cli.installing import server_command

    command = server_command()
    assert Path(command[0]).is_absolute()
    assert command[0].endswith("nanodistill-mcp") or "-P" in command
    assert Path(command[0]).parent == Path(sys.executable).absolute().parent
