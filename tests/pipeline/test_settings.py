"""The server's configuration: who wins, where a value came from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import ConfigurationError, UserInputError
from nanodistill_mcp.settings import DEFAULT_STUDENT, DEFAULT_TEACHER, Settings, load_settings


def _load(tmp_path: Path, text: str = "", env: dict[str, str] | None = None, **overrides: Any) -> Settings:
    if text:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return load_settings(tmp_path, overrides, env or {})


def _refused(tmp_path: Path, text: str = "", env: dict[str, str] | None = None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        _load(tmp_path, text, env)
    return caught.value


def test_without_any_configuration_there_are_defaults(tmp_path: Path) -> None:
    """The first start of a new user."""
    settings = _load(tmp_path)
    assert (settings.default_teacher, settings.default_student) == (DEFAULT_TEACHER, DEFAULT_STUDENT)
    assert (settings.budget.usd_per_run, settings.budget.usd_per_day) == (20.0, 50.0)
    assert (settings.teachers, settings.allowed_paths, settings.home) == ({}, [], tmp_path)
    assert settings.origins == {}


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    """And each value says where it came from, so that a wrong one can be found."""
    text = "default_teacher: file\ndefault_student: file\nallowed_paths: [/file]\n"
    env = {"NANODISTILL_DEFAULT_TEACHER": "environment", "NANODISTILL_DEFAULT_STUDENT": "environment"}
    settings = _load(tmp_path, text, env, default_teacher="command line")
    assert (settings.default_teacher, settings.default_student) == ("command line", "environment")
    assert settings.allowed_paths == [Path("/file")]
    assert settings.origin("default_teacher") == "command line"
    assert settings.origin("default_student") == "environment"
    assert settings.origin("allowed_paths") == "file"
    assert settings.origin("budget.usd_per_run") == "default"


def test_one_ceiling_from_the_environment_leaves_the_others_of_the_file(tmp_path: Path) -> None:
    """Else lowering one would raise the other back to its default."""
    settings = _load(tmp_path, "budget: {usd_per_run: 1, usd_per_day: 2}", {"NANODISTILL_BUDGET__USD_PER_RUN": "0.5"})
    assert (settings.budget.usd_per_run, settings.budget.usd_per_day) == (0.5, 2.0)


def test_lists_in_the_environment_are_parted_as_paths_are(tmp_path: Path) -> None:
    """As in PATH."""
    settings = _load(
        tmp_path, env={"NANODISTILL_ALLOWED_PATHS": "/a b:~/c:", "NANODISTILL_PASS_ENVIRONMENT": "HTTPS_PROXY"}
    )
    assert settings.allowed_paths == [Path("/a b"), Path("~/c")]
    assert settings.readable_dirs() == [Path("/a b"), Path.home().resolve() / "c"]
    assert settings.pass_environment == ["HTTPS_PROXY"]


def test_other_programs_variables_and_the_data_directory_are_not_ours_to_judge(tmp_path: Path) -> None:
    """NANODISTILL_HOME is read before the settings are."""
    settings = _load(tmp_path, env={"NANODISTILL_HOME": "/x", "PATH": "/bin", "MY_NANODISTILL_X": "1"})
    assert settings.origins == {}


@pytest.mark.parametrize(
    "name", ["NANODISTILL_MAX_USD", "NANODISTILL_TEACHERS", "NANODISTILL_BUDGET", "NANODISTILL_", "NANODISTILL_A__B__C"]
)
def test_a_variable_that_looks_like_ours_and_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """A typo in a spending limit must not pass as no limit."""
    refused = _refused(tmp_path, env={name: "secret-value"})
    assert refused.what == f"The variable {name} is not one this server knows."
    assert "NANODISTILL_HOME, _CONFIG" in refused.next_step
    assert "secret-value" not in str(refused)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("teachers: [", "The configuration file is not YAML (line 1)."),
        ("a: 1\nb: 'x", "The configuration file is not YAML (line 2)."),
        ("- a\n- b", "The configuration file is not a mapping of names to values."),
        ("just text", "The configuration file is not a mapping of names to values."),
        ("!!python/object/apply:os.system ['true']", "The configuration file is not YAML (line 1)."),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    """And nothing in it is ever run."""
    assert _refused(tmp_path, text).what == what


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_an_empty_file_is_no_configuration(tmp_path: Path, text: str) -> None:
    """Someone made it and has not filled it in."""
    (tmp_path / "config.yaml").write_text(text)
    assert _load(tmp_path).origins == {}


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Saved in another encoding."""
    (tmp_path / "config.yaml").write_bytes(b"default_teacher: \xe9t\xe9")
    assert _refused(tmp_path).what == "The configuration file cannot be read as text."


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    """Some editors write one."""
    (tmp_path / "config.yaml").write_bytes(b"\xef\xbb\xbfdefault_teacher: x\n")
    assert _load(tmp_path).default_teacher == "x"


def test_a_file_that_is_named_must_be_there_and_is_then_the_only_one(tmp_path: Path) -> None:
    """Silence about a missing file would drop the ceilings in it."""
    other = tmp_path / "other.yaml"
    env = {"NANODISTILL_CONFIG": str(other)}
    assert _refused(tmp_path, "default_teacher: home", env).what == "NANODISTILL_CONFIG names a file that is not there."
    other.write_text("default_student: other")
    settings = _load(tmp_path, env=env)
    assert (settings.default_teacher, settings.default_student) == (DEFAULT_TEACHER, "other")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("budgett: {}", "The server's configuration has keys it does not know: budgett."),
        ("home: /elsewhere", "The server's configuration has keys it does not know: home."),
        ("budget: {usd_per_run: -1}", "budget.usd_per_run: Input should be greater than or equal to 0"),
        ("budget: {usd_per_week: 1}", "budget.usd_per_week: Extra inputs are not permitted"),
        ("budget: {usd_per_run: secret-value}", "budget.usd_per_run: Input should be a valid number"),
        ("teachers: {a: {}}", "teachers.a.model: Field required"),
        ("teachers: {a: {model: m, api_key: secret-value}}", "teachers.a.api_key: Extra inputs are not permitted"),
        ("teachers: {a: {model: m, usd_per_mtok: [1]}}", "teachers.a.usd_per_mtok"),
        ("allowed_paths: /home", "allowed_paths: Input should be a valid list"),
    ],
)
def test_a_key_or_value_that_is_not_accepted_is_named_and_its_value_is_not_told(
    tmp_path: Path, text: str, what: str
) -> None:
    """Someone may have pasted a key where its variable's name belongs; the error goes to the agent."""
    refused = _refused(tmp_path, text)
    assert what in refused.what
    assert "secret-value" not in str(refused)
    assert refused.next_step.startswith("Accepted keys: allowed_paths, allowed_students, budget, ")


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:8001/v1", "https://example.com", "https://example.com/v1/", "http://[::1]:8001/v1"],
)
def test_an_endpoint_is_a_plain_address(tmp_path: Path, address: str) -> None:
    """A slash at the end is dropped: some clients would ask for two."""
    settings = _load(tmp_path, f"teachers: {{a: {{model: openai/m, api_base: '{address}'}}}}")
    assert settings.endpoint("a").api_base == address.rstrip("/")
    assert settings.endpoint("a").name == "a"


@pytest.mark.parametrize(
    "address",
    [
        "https://user:secret-value@example.com/v1",
        "https://secret-value@example.com",
        "https://example.com/v1?key=secret-value",
        "https://example.com/v1#secret-value",
        "ftp://example.com",
        "file:///etc/passwd",
        "example.com/v1",
        "https://",
        "https://exa mple.com",
        " https://example.com",
        "https://example.com\n",
    ],
)
def test_an_endpoint_with_credentials_or_of_another_kind_is_refused(tmp_path: Path, address: str) -> None:
    """A key in an address ends up in logs and in the run's manifest."""
    text = f"teachers: {{a: {{model: openai/m, api_base: {address!r}}}}}".replace("\\n", "")
    if address.endswith("\n"):
        text = 'teachers: {a: {model: openai/m, api_base: "https://example.com\\n"}}'
    refused = _refused(tmp_path, text)
    assert "give http(s)://host[:port][/path], without user name, query or fragment" in refused.what
    assert "secret-value" not in str(refused)


@pytest.mark.parametrize("teacher", ["claude-sonnet-5-5", "openai/gpt-5", "ollama/llama3.2:1b", "bedrock/a.b-v1:0"])
def test_a_teacher_is_a_configured_name_or_a_model_id(tmp_path: Path, teacher: str) -> None:
    """An id goes to its provider's own address."""
    endpoint = _load(tmp_path).endpoint(teacher)
    assert (endpoint.name, endpoint.model, endpoint.api_base, endpoint.api_key_env) == (teacher, teacher, "", "")


@pytest.mark.parametrize(
    "teacher",
    [
        "",
        "http://evil.example/v1",
        "openai/http://evil",
        "a//b",
        "../x",
        "a b",
        "a\n",
        "-x",
        "a" * 201,
        "a?b",
        "\uff41",
    ],
)
def test_a_teacher_that_is_neither_is_refused_without_repeating_it(tmp_path: Path, teacher: str) -> None:
    """An argument must never become an address."""
    settings = _load(tmp_path, "teachers: {local: {model: m}}")
    with pytest.raises(UserInputError) as caught:
        settings.endpoint(teacher)
    assert caught.value.what == "That is not a teacher."
    assert "(local)" in caught.value.next_step
    assert "evil" not in str(caught.value)


def test_the_host_is_the_calling_agent_and_no_endpoint_can_take_its_name(tmp_path: Path) -> None:
    """Whoever asks to be the teacher must never be billed."""
    assert _load(tmp_path).endpoint("host").is_host
    assert not _load(tmp_path).endpoint(DEFAULT_TEACHER).is_host
    refused = _refused(tmp_path, "teachers: {host: {model: openai/desk}}")
    assert "host is the calling agent; give the endpoint another name" in refused.what


MODELS = """
models:
  claude-x: {usd_per_mtok: [3, 15], retires_on: 2027-01-31, max_output_tokens: 8192, answers_by_schema: false}
teachers:
  dear: {model: claude-x, usd_per_mtok: [5, 25]}
  own: {model: claude-x, overrides: {calls_tools: true}}
"""


def test_what_is_said_of_a_model_reaches_every_endpoint_of_it(tmp_path: Path) -> None:
    """Data that came with the server ages; correcting it must not need a new version."""
    settings = _load(tmp_path, MODELS)
    plain, dear, own = (settings.endpoint(name) for name in ("claude-x", "dear", "own"))

    assert plain.overrides.max_output_tokens == 8192
    assert plain.overrides.answers_by_schema is False
    assert str(plain.overrides.retires_on) == "2027-01-31"
    assert (plain.usd_per_mtok, dear.usd_per_mtok) == ((3, 15), (5, 25))
    assert dear.overrides == plain.overrides
    assert own.overrides.max_output_tokens is None, "what is said of an endpoint stands alone"
    assert settings.endpoint("another-model").overrides.max_output_tokens is None
    assert type(plain).model_validate(plain.model_dump(mode="json")) == plain, "it travels to other processes as JSON"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("{max_tokens: 3}", "max_tokens"),
        ("{usd_per_mtok: [-1, 2]}", "usd_per_mtok"),
        ("{usd_per_mtok: [.nan, 2]}", "usd_per_mtok"),
        ("{retires_on: soon}", "retires_on"),
        ("{leave_out: [messages]}", "leave_out"),
    ],
)
def test_what_is_said_of_a_model_is_checked(tmp_path: Path, said: str, named: str) -> None:
    """A misspelt key that is ignored is a price nobody asked for."""
    assert f"models.m.{named}" in _refused(tmp_path, f"models: {{m: {said}}}").what
