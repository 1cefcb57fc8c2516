"""What the documentation says is what the code does."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.cli import command_line
from nanodistill_mcp.cli.clients import CLIENTS
from nanodistill_mcp.cli.commands.export_data import FORMS
from nanodistill_mcp.cli.headless import read_spec
from nanodistill_mcp.cli.installing import DEFAULT_KEY, added_by_command, snippet
from nanodistill_mcp.pipeline.plan import check_options
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.server.tools import all_tools
from tests.cli.person import types
from tests.conftest import Bench, Demo

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_options_is_the_one_the_code_checks() -> None:
    """A range that is documented and not checked, or the other way round, sends people in circles."""
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == _program("make_options").page(), (
        "run: python docs/make_options.py"
    )


def test_the_tables_of_costs_are_todays_estimates() -> None:
    """The prices are the locked library's: another lock has another table."""
    assert (ROOT / "docs" / "costs.md").read_text(encoding="utf-8") == _program("make_costs").page(), (
        "run: python docs/make_costs.py"
    )


def test_what_a_million_rows_take_is_reckoned_from_the_constants_that_were_measured() -> None:
    """A figure that was typed into the page is nobody's; those of other pages stand on them."""
    program = _program("make_scale")
    assert (ROOT / "docs" / "scale.md").read_text(encoding="utf-8") == program.page(), "run: python docs/make_scale.py"
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for at_once, rate in program.ANSWERS_A_SECOND.items():
        [ours] = [line for line in _section(benchmarks, "### 500 ms").splitlines() if "nanodistill-mcp" in line]
        assert ours.split("|")[{32: 4, 128: 5}[at_once]].split()[0] == str(rate)
    large = _section((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"), "## Large")
    took = re.search(r"> 100000 examples[^;]*;[^;]*; status ([\d.]+) s", large)
    assert took
    assert round(float(took[1]) * 10, 1) == program.STATUS_US_A_CALL
    scale = program.Scale(json.loads((ROOT / "docs" / "scale.json").read_text(encoding="utf-8")))
    assert scale.amplify_bytes(2e6) == pytest.approx(2 * scale.amplify_bytes(1e6))
    assert scale.duplicates_s(2e6) == pytest.approx(4 * scale.duplicates_s(1e6), rel=0.01)


def _section(page: str, head: str) -> str:
    """A page's part under a heading."""
    return page.partition(head)[2].partition("\n#")[0]


def test_every_message_of_the_troubleshooting_page_is_one_that_is_said() -> None:
    """People search for the words they read; words that changed since lead nowhere."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "nanodistill_mcp").rglob("*.py")]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = [value for value in constants if isinstance(value, str)]
    said = "\n".join(texts)
    fragments = [fragment.strip(" '") for message in messages for fragment in message.split("…")]
    assert [fragment for fragment in fragments if fragment and fragment not in said] == []
    assert len(messages) > 15


def test_the_page_of_tools_is_what_an_agent_sees() -> None:
    """Whoever writes a client reads it there; the agent reads the code."""
    assert (ROOT / "docs" / "tools.md").read_text(encoding="utf-8") == _program("make_tools").page(), (
        "run: python docs/make_tools.py"
    )
    assert not [tool.name for tool in all_tools() if "\n " in tool.description]


def test_the_clients_configurations_are_those_that_install_writes() -> None:
    """They are pasted as they are."""
    for path, text in _program("make_installation").files().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/make_installation.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|json)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    command = ["/path/to/.venv/bin/nanodistill-mcp", "serve"]
    assert shlex.join(added_by_command(command, {})) + "\n" in blocks
    written = json.loads(snippet(CLIENTS["claude-desktop"], command, [DEFAULT_KEY], {}))
    assert written in [json.loads(block) for block in blocks if block.startswith("{")]


def test_the_installation_page_shows_commands_that_are_taken(bench: Bench) -> None:
    """Each flag and client on it exists; a copied line works."""
    lines = re.findall(r"^nanodistill-mcp install([^#\n]*)", _program("make_installation").page(), re.MULTILINE)
    accepted = types(bench.home, "install", "--help").stdout
    words = [word for line in lines for word in shlex.split(line)]
    assert {word for word in words if word.startswith("--") and word not in accepted} == set()
    assert {"--dry-run", "--undo", "--env", "--no-env"} < set(words)
    assert {client for flag, client in pairwise(words) if flag == "--client"} <= CLIENTS.keys()


def test_the_transcript_of_claude_code_is_one_in_which_each_call_is_the_last_replys_next_step() -> None:
    """It was kept from a run of tests/clients/claude_code.py; a stage that was added since asks for another run."""
    page = (ROOT / "docs" / "claude-code.md").read_text(encoding="utf-8")
    transcripts = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(transcripts) == 2  # with -p, and in a terminal
    for transcript in transcripts:
        called = [line.split("   (")[0] for line in re.findall(r"^ +\d+ s  -> (.*)$", transcript, re.MULTILINE)]
        named = re.findall(r"^ +next_step: (\w+\(.*?\)): ", transcript, re.MULTILINE)
        assert named[:-1] == called[1:]
        stages = [call.split("(")[0] for call in called]
        assert [stage for stage in stages if stage != "get_status"] == ["create_run", *PIPELINE]
    assert (ROOT / "tests" / "clients" / "claude_code.py").is_file()


def test_the_readme_names_exactly_the_tools_there_are() -> None:
    """A tool that is promised and missing costs a user's trust."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == [tool.name for tool in all_tools()]


def test_every_tool_keeps_the_rules_of_the_surface() -> None:
    """Some clients refuse unions, some models lose the end of a long description, and a missing hint reads as the worst."""
    for tool in all_tools():
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values(), tool.name
        assert tool.parameters["additionalProperties"] is False, tool.name
        assert not re.search(r'"(anyOf|oneOf|allOf)"', json.dumps(tool.parameters)), tool.name
        assert len(re.findall(r"\.(?=\s|$)", tool.description)) <= 4, tool.name
        for name, schema in tool.parameters["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name}"


def test_each_proof_of_reliability_is_run_by_the_command_beside_it() -> None:
    """A command that selects nothing passes, and proves nothing."""
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    told = {name for words in re.findall(r"pytest -m '([^']+) and slow'", page) for name in re.findall(r"\w+", words)}
    proofs = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    exhaustive = [proof for proof in proofs if "pytest.mark.slow" in proof]
    marked = {name for proof in exhaustive for name in re.findall(r"pytest\.mark\.(\w+)", proof)}
    assert told - {"or", "and"} <= marked | {"soak", "fuzz"}  # these two come with their own suites
    of_crashes = [path.read_text("utf-8") for path in (ROOT / "tests" / "crash").glob("test_*.py")]
    assert all(
        "pytest.mark.slow" in proof and re.search(r"mark\.(crash|fault|race|soak)", proof) for proof in of_crashes
    )


def test_every_promise_of_the_page_on_migration_has_a_proof_there_is() -> None:
    """Whoever comes from another program looks a feature up there; a row whose test is gone promises nothing."""
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!there|---).+ \| `(tests/[\w/]+\.py)(?:::(test_\w+))?` \|$", page, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!there|---)", page, re.MULTILINE)), "a row without a proof"
    for path, name in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), (path, name)


def test_every_command_of_the_page_on_the_command_line_does_what_it_says(bench: Bench, demo: Demo) -> None:
    """A command that is copied from a page must be taken; those that only look are carried out."""
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert {line[1] for line in lines} == {"runs", "show", "logs", "run", "clean", "doctor", "completion", "config"}
    bench.adopt(demo)
    helps = {command: types(bench.home, command, "--help").stdout for command in {line[1] for line in lines}}
    for _, command, *rest in lines:
        assert [flag for flag in rest if flag.startswith("--") and flag not in helps[command]] == []
        if command in ("run", "doctor") or "--yes" in rest:
            continue
        ended = types(bench.home, command, *rest)
        assert (ended.returncode, ended.stderr) == (0, ""), (command, rest)
        assert ended.stdout


def test_the_file_of_a_run_on_that_page_is_one(bench: Bench, tmp_path: Path) -> None:
    """It is copied, too: every name in it is one that create_run or the stage takes."""
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "tickets.yaml").write_text(text, encoding="utf-8")
    spec = read_spec(tmp_path / "tickets.yaml")
    accepted = {tool.name: tool.parameters["properties"] for tool in all_tools()}
    for stage, arguments in spec.pop("stages").items():
        assert set(arguments) <= set(accepted[stage])
    assert set(spec) <= set(accepted["create_run"])
    check_options(spec["options"])
    told = types(bench.home, "run", str(tmp_path / "tickets.yaml"))
    assert told.returncode == 1
    assert "There is no such seed file." in told.stderr  # it is the user's


def _program(name: str) -> Any:
    """One of the programs in docs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_call_in_the_page_on_runs_is_one_there_is() -> None:
    """A command that is copied and refused sends people away."""
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    tools = {tool.name: tool.parameters["properties"] for tool in all_tools()}
    assert len(lines) > 10
    for line in lines:
        if line.startswith("nanodistill-mcp "):
            command_line().parse_args(shlex.split(line)[1:])
        else:
            call = ast.parse(line, mode="eval").body
            assert isinstance(call, ast.Call)
            assert isinstance(call.func, ast.Name)
            assert {argument.arg for argument in call.keywords} <= tools[call.func.id].keys(), line


def test_every_command_of_the_page_on_data_is_taken() -> None:
    """They are copied: each flag and form on it exists."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line]
    assert {line[0] for line in lines} == {"nanodistill-mcp"}
    for line in lines:
        command_line().parse_args(line[1:])
    for form in FORMS:
        assert f"| `{form}` |" in page


def test_the_commands_and_the_entry_of_the_page_on_clients_are_taken() -> None:
    """They are copied: each flag is one of serve's, and the entry is JSON with the header the server looks for."""
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        assert line[0] == "nanodistill-mcp"
        assert command_line().parse_args(line[1:]).http
    [entry] = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    server = json.loads(entry)["mcpServers"]["nanodistill"]
    assert server["url"] == "http://127.0.0.1:8765/mcp"
    assert list(server["headers"]) == ["Authorization"]


def test_what_the_tools_cost_a_conversation_is_what_the_page_says(tmp_path: Path) -> None:
    """A description that grows by a sentence is paid for in every chat of every user."""
    made = tmp_path / "tokens.md"
    command = [sys.executable, "bench/tool_tokens.py", "--page", str(made)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told, now_ = (
        re.findall(r"^\| `?(\w+)[` ].*\*\*(\d+)\*\*", text.read_text(encoding="utf-8"), re.MULTILINE)
        for text in (ROOT / "docs" / "tokens.md", made)
    )
    assert [name for name, _ in told] == [name for name, _ in now_], (
        "run: python bench/tool_tokens.py --page docs/tokens.md"
    )
    assert int(told[-1][1]) == pytest.approx(int(now_[-1][1]), rel=0.1)


def test_whatever_fails_at_the_protocols_own_suite_has_its_reason() -> None:
    """A failure without one is a defect that was written down and forgotten."""
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\d+) \| (\d+) \| (.*)\|$", page, re.MULTILINE)
    assert len(rows) > 60
    assert [name for name, _, failed, why in rows if (failed != "0") != (len(why.strip()) > 3)] == []
