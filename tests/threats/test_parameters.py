"""T4, T5: through no argument does a caller reach a parameter of LiteLLM or of MLX-LM that was not meant for it."""

import importlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import response_schemas
from nanodistill_mcp.pipeline.plan import check_options
from nanodistill_mcp.pipeline.response_schemas import schema_check
from nanodistill_mcp.runs.options import TRAINING_OPTIONS, Options
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.runs.translations import _RENAMED, MLX_LM, MlxLm  # pyright: ignore[reportPrivateUsage]
from nanodistill_mcp.student.models import resolve
from nanodistill_mcp.teacher.libraries import litellm
from tests.conftest import KEY, SECRET, Bench
from tests.runs.made import make_run
from tests.threats.conftest import Attack


class Listener:
    """An address somebody else would like to be called at, and what came there."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
                """Stay silent."""

            def _hear(self) -> None:
                heard.append(f"{self.command} {self.path} {self.headers}")
                self.send_error(500)

            do_GET = do_POST = do_PUT = do_HEAD = do_CONNECT = _hear  # noqa: N815 - as the base calls them

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A listener that records every request."""
    made = Listener()
    yield made
    made.close()


def _litellm_names() -> list[str]:
    """Every parameter the installed LiteLLM knows, from its own signatures and lists."""
    library = litellm()
    constants = importlib.import_module("litellm.constants")
    types = importlib.import_module("litellm.types.utils")
    signatures = [inspect.signature(each).parameters for each in (library.completion, library.acompletion)]
    lists: list[Any] = [*signatures, types.all_litellm_params, constants.DEFAULT_CHAT_COMPLETION_PARAM_VALUES]
    return sorted({str(name) for names in lists for name in names})


OURS = {"seed", "tags", "temperature"}
"""Options of ours that LiteLLM has too, with the meaning and the range that docs/options.md gives."""


def test_every_parameter_of_litellm_is_refused_by_name_as_an_option(listener: Listener) -> None:
    """Nearly four hundred, each with an address and with a list of tables as its value."""
    names = _litellm_names()
    assert len(names) > 300
    assert set(names) & set(Options.model_fields) == OURS
    for name in names:
        for value in (listener.url, [{"api_base": listener.url}]):
            for given in ({name: value}, {"litellm_kwargs": {name: value}}, {"extra_body": {name: value}}):
                if name == "tags" and given.get(name) == [{"api_base": listener.url}]:
                    continue
                with pytest.raises(UserInputError) as refused:
                    check_options(given)
                told = str(refused.value)
                assert any(
                    word in told
                    for word in (next(iter(given)), f"litellm.{name}", name, "A name in", "teacher_max_tokens")
                ), given
                assert listener.url not in str(refused.value)
        for place in MLX_LM:
            if name not in OURS:
                with pytest.raises(UserInputError):
                    check_options({place: {name: listener.url}})
    assert listener.heard == []


async def test_every_parameter_of_litellm_is_refused_as_an_argument_and_as_a_change(
    attack: Attack, listener: Listener
) -> None:
    """No tool that takes options, and no tool at all, takes an endpoint, a header, a callback or a key."""
    names = [name for name in _litellm_names() if name not in ("seed", "name")]
    given: dict[str, Any] = dict.fromkeys(names, listener.url)
    async with attack() as attacker:
        tools = (await attacker.client.list_tools()).tools
        assert len(tools) > 15
        for tool in tools:
            taken = set(tool.input_schema["properties"])
            unknown = [name for name in names if name not in taken]
            for some in (unknown[::2], unknown[1::2]):
                told = await attacker.refused(attacker.call(tool.name, **{name: given[name] for name in some}))
                assert [name for name in some if f"{name}: not an argument" not in told] == []
        run = make_run(attacker.home)
        for name in names:
            for changes in ({name: listener.url}, {"options": {name: listener.url}}):
                told = await attacker.refused(attacker.call("clone_run", run_id=run.run_id, name="c", changes=changes))
                assert name in told or "A clone can change: " in told, told
        assert RunStore(attacker.home).names() == [run.run_id]
        assert attacker.teacher.asked == []
    assert listener.heard == []


@pytest.mark.parametrize(
    "teacher",
    [
        "<url>",
        "openai/x@<url>",
        "<url>/v1",
        "local?api_base=<url>",
        "openai//<url>",
        "huggingface/<url>",
        "oobabooga/<url>",
        "a b",
    ],
)
async def test_a_teacher_is_no_address(attack: Attack, listener: Listener, teacher: str) -> None:
    """The one argument that names a teacher takes ids, and endpoints by the names the configuration gives them."""
    async with attack() as attacker:
        told = await attacker.refused(attacker.create(teacher=teacher.replace("<url>", listener.url)))
        assert told.startswith("That is not a teacher.")
    assert listener.heard == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "<url>/schema.json"},
        {"$dynamicRef": "<url>/schema.json"},
        {"anyOf": [{"type": "integer"}, {"$ref": "<url>/schema.json"}]},
        {"$id": "<url>/", "$ref": "other.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/nowhere"},
    ],
)
def test_a_schema_fetches_nothing(listener: Listener, schema: dict[str, Any]) -> None:
    """The library that checks schemas fetches what a $ref names, from the net or from this disk, unless it is told not to."""
    with pytest.raises(UserInputError, match="names another document"):
        schema_check(json.loads(json.dumps(schema).replace("<url>", listener.url)))
    hidden = {"properties": {"a": json.loads(json.dumps(schema).replace("<url>", listener.url))}}
    assert not schema_check(hidden)('{"a": "x"}')
    assert listener.heard == []


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"pattern": "("}, {"type": 7}, {"allOf": [{"$ref": "#"}]}])
def test_a_schema_that_is_none_is_said_to_be_none(schema: dict[str, Any]) -> None:
    """Whatever the library makes of it."""
    with pytest.raises(UserInputError, match="is not a JSON Schema"):
        schema_check(schema)


def test_a_pattern_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of an agent's must not hold the server up for ever."""
    monkeypatch.setattr(response_schemas, "_ONE_CHECK_S", 0.1)
    keeps = schema_check({"type": "string", "pattern": "^(a+)+$"}, total_s=0.15)
    assert keeps("a" * 20)
    assert not keeps("a" * 50 + "b")

    def all_of_them() -> list[bool]:  # the kernel ends each a little before or after its tenth of a second
        return [keeps("a" * 50 + "b") for _ in range(9)]

    with pytest.raises(UserInputError, match="take too long to be held against response_schema"):
        all_of_them()


def _mlx_names() -> list[str]:
    """Every key of MLX-LM's trainer, every beginning of one that argparse would take for it, and how each is written."""
    lora = importlib.import_module("mlx_lm.lora")
    keys = {action.dest for action in lora.build_parser()._actions} | set(lora.CONFIG_DEFAULTS)
    assert {"model", "trust_remote_code", "config", "resume_adapter_file"} <= keys
    short = {key[:length] for key in keys for length in range(1, len(key) + 1)}
    return sorted({form for name in short for form in (name, f"--{name}", name.replace("_", "-"))})


def test_every_key_of_mlx_lm_and_every_beginning_of_one_is_refused_unless_it_is_listed(tmp_path: Path) -> None:
    """Argparse takes "mod" for "model" and "trust" for "trust_remote_code": with both, a folder's code would run."""
    marker, evil = tmp_path / "ran", tmp_path / "evil"
    shutil.copytree(student_path(), evil)
    (evil / "payload.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(
        json.dumps({**config, "model_file": "payload.py", "auto_map": {"AutoConfig": "payload.X"}})
    )
    listed = {*MlxLm.model_fields, *TRAINING_OPTIONS, *_RENAMED, "use_dora", "use_rslora", "bias", "lora_parameters"}
    names = _mlx_names()
    assert len(names) > 200
    for name in names:
        for place in MLX_LM:
            for value in (str(evil), True):
                try:
                    taken = check_options({place: {name: value}})
                except UserInputError:
                    continue
                assert name.lstrip("-").replace("-", "_") in listed, name
                assert str(evil) not in json.dumps(taken.model_dump()), name
    with pytest.raises(UserInputError, match="code of its own"):
        resolve(str(evil))
    assert not marker.exists()


@pytest.mark.slow  # each commit holds the worker's environment to its allow-list in tests/jobs/test_jobs.py
async def test_variables_of_the_servers_environment_redirect_no_worker(
    bench: Bench, listener: Listener, tmp_path: Path
) -> None:
    """Agents' hosts often export ANTHROPIC_BASE_URL; a project's .env or a shell profile may hold anything."""
    library = inspect.getsource(importlib.import_module("litellm.main"))
    words = {word.strip("\"'(),[]") for word in library.split()}
    names = {word for word in words if word.isupper() and word.endswith(("_API_BASE", "_BASE_URL", "_API_URL"))}
    names |= {
        f"{maker}_{what}"
        for maker in ("OPENAI", "ANTHROPIC", "OLLAMA", "LITELLM", "AZURE")
        for what in ("API_BASE", "BASE_URL")
    }
    names |= {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"}
    assert len(names) > 15
    away = dict.fromkeys(names, listener.url)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".env").write_text("".join(f"{name}={listener.url}\n" for name in names))
    bench.configure(teachers={"local": {"model": "anthropic/claude-sonnet-4-5", "api_key_env": KEY}})
    bench.env |= away
    async with bench.connect() as agent:
        await agent.create()
        with anyio.fail_after(120):
            reply = await agent.finish("tickets", "synthesize_cot")
    assert reply["state"] == "failed"
    assert "There is no connection to the teacher at api.anthropic.com" in reply["message"]
    assert listener.heard == []
    assert SECRET not in str(reply)
    assert os.environ.get(KEY) is None
