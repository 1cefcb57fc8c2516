"""The configuration as a person sees it: each value, who gave it, and no secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.cli.configuring import HIDDEN, snapshot, values
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.settings import from_words, given_to_servers, load_settings
from tests.cli.person import types

FILE = """
teachers:
  local: {model: openai/x, api_base: "http://127.0.0.1:1/v1", api_key_env: DESK_KEY, timeout_s: 60}
models:
  gpt-4.1: {usd_per_mtok: [1, 2]}
budget: {usd_per_day: 3, usd_per_run: 3}
"""
KEY, TOKEN = "desk-key-0123456789", "t" * 40


def test_each_value_says_who_gave_it_and_a_secret_only_that_it_is_there(tmp_path: Path) -> None:
    """The question is always: why is it not what I wrote? And the answer is pasted into a bug report."""
    (tmp_path / "config.yaml").write_text(FILE)
    env = {
        "NANODISTILL_BUDGET__USD_PER_RUN": "2",
        "NANODISTILL_TEACHERS__LOCAL__TIMEOUT_S": "9",
        "NANODISTILL_HTTP_TOKEN": TOKEN,
        "DESK_KEY": KEY,
    }
    shown = types(tmp_path, "--set", "budget.usd_per_run=1", "config", "show", env=env)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "budget.usd_per_run = 1.0  (command line)" in lines
    assert "teachers.local.timeout_s = 9.0  (environment)" in lines
    assert "teachers.local.model = openai/x  (file)" in lines
    assert "models.gpt-4.1.usd_per_mtok = 1.0, 2.0  (file)" in lines
    assert "budget.calls_per_run = -  (default)" in lines
    assert f"teachers.local: the key in DESK_KEY = {HIDDEN}  (environment)" in lines
    assert f"NANODISTILL_HTTP_TOKEN = {HIDDEN}  (environment)" in lines
    assert KEY not in shown.stdout
    assert TOKEN not in shown.stdout

    listed = json.loads(types(tmp_path, "config", "show", "--json").stdout)
    assert {"name": "budget.usd_per_run", "value": 3.0, "origin": "file"} in listed


def test_a_snapshot_is_a_configuration_file_that_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept beside results, and taken to another machine; so it holds no key."""
    monkeypatch.setenv("DESK_KEY", KEY)
    (tmp_path / "config.yaml").write_text(FILE)
    settings = load_settings(tmp_path, {"default_teacher": "local"}, {"NANODISTILL_ALLOWED_PATHS": "/data"})
    text = snapshot(settings)
    assert KEY not in text
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(text)
    again = load_settings(other, env={})
    left = {"home", "origins"}
    assert again.model_dump(exclude=left) == settings.model_dump(exclude=left)
    assert (again.origin("default_teacher"), again.origin("allowed_paths")) == ("file", "file")


def test_a_key_that_was_written_where_it_does_not_belong_is_not_shown(tmp_path: Path) -> None:
    """Somebody pastes one into a teacher's name, sooner or later."""
    key = "sk-" + "a1" * 16
    settings = load_settings(tmp_path, {"default_teacher": key}, {})
    assert key not in str(values(settings)) + snapshot(settings)


@pytest.mark.parametrize("word", ["budget", "home=/x", "=1", "budget.usd=1=2=3", "origins.x=file", "teachers.x=1"])
def test_what_is_no_value_of_the_configuration_is_refused_on_the_command_line(tmp_path: Path, word: str) -> None:
    """Also in depth: a misspelt limit must not pass for one."""
    with pytest.raises(NanodistillError, match=r"--set|configuration"):
        load_settings(tmp_path, from_words([word]), {})


def test_what_a_command_gives_its_server_comes_over_all_and_leaves_what_else_was_set(tmp_path: Path) -> None:
    """The folder of a run's file is allowed beside those of --set, and no variable stands in its way."""
    environment = given_to_servers({"NANODISTILL_ALLOWED_PATHS": "/v"}, from_words(["budget.usd_per_run=1"]))
    environment = given_to_servers(environment, {"allowed_paths": ["/a:b", "/c"]})
    settings = load_settings(tmp_path, env=environment)
    assert settings.allowed_paths == [Path("/a:b"), Path("/c")]
    assert settings.budget.usd_per_run == 1


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["allowed_paths=/a:/b"], {"allowed_paths": ["/a", "/b"]}),
        (['allowed_paths=["/a:b"]'], {"allowed_paths": ["/a:b"]}),
        (["default_student=a=b"], {"default_student": "a=b"}),
        (["teachers.x.model=m", "teachers.x.usd_per_mtok=[0, 0]"], {"teachers": {"x": {"model": "m", "usd_per_mtok": [0, 0]}}}),
        (["teachers.x.overrides.calls_tools=true"], {"teachers": {"x": {"overrides": {"calls_tools": "true"}}}}),
    ],
)  # fmt: skip
def test_values_nest_and_lists_are_parted(words: list[str], wanted: dict[str, Any]) -> None:
    """As in the environment, with points for double underscores."""
    assert from_words(words) == wanted
