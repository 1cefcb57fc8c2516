"""What is said of a teacher before anything is spent, against what LiteLLM alone would say."""

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher import preflight as module
from nanodistill_mcp.teacher.preflight import Looked, TeacherFacts, look_at, teacher_facts


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in list(os.environ):
        if name.endswith(("_KEY", "_TOKEN", "_API_BASE", "_BASE_URL")) or name.startswith(
            ("AWS_", "VERTEX", "GOOGLE_")
        ):
            monkeypatch.delenv(name)


def facts(model: str, **endpoint: Any) -> TeacherFacts:
    """The check of one model."""
    return teacher_facts(TeacherEndpoint.model_validate({"model": model, **endpoint}), look_at(model))


@pytest.mark.parametrize(
    ("model", "provider", "missing"),
    [
        ("claude-sonnet-5-5", "anthropic", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]),
        ("anthropic/claude-sonnet-4-5", "anthropic", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]),
        ("gpt-5.2", "openai", ["OPENAI_API_KEY"]),
        ("o3", "openai", ["OPENAI_API_KEY"]),
        ("gemini/gemini-2.5-flash", "gemini", ["GOOGLE_API_KEY", "GEMINI_API_KEY"]),
        ("openrouter/some/model", "openrouter", ["OPENROUTER_API_KEY"]),
        ("deepseek/deepseek-chat", "deepseek", ["DEEPSEEK_API_KEY"]),
        ("mistral/mistral-large-latest", "mistral", ["MISTRAL_API_KEY"]),
        ("groq/some-model", "groq", ["GROQ_API_KEY"]),
        ("xai/grok-4", "xai", ["XAI_API_KEY"]),
        ("together_ai/some-model", "together_ai", ["TOGETHERAI_API_KEY"]),
        ("github/gpt-4o", "github", ["GITHUB_API_KEY"]),
    ],
)
def test_a_provider_with_one_key_names_it_and_requires_it(model: str, provider: str, missing: list[str]) -> None:
    """A run that cannot make its first call should never be created."""
    found = facts(model)

    assert (found.provider, found.missing_keys, found.key_check) == (provider, missing, "required")


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_any_accepted_name_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are honoured by the provider's format."""
    monkeypatch.setenv(name, "set")

    assert facts("claude-sonnet-5-5").missing_keys == []


@pytest.mark.parametrize("model", ["unknown-model", "foo/bar", "claude-3-7-sonnet-20250219"])
def test_an_id_no_provider_goes_with_is_an_error_with_examples(model: str) -> None:
    """LiteLLM's own check of the environment passes these."""
    with pytest.raises(ConfigurationError, match="openrouter/<maker>/<model>"):
        facts(model)


@pytest.mark.parametrize(
    "model", ["bedrock/us.anthropic.claude-sonnet-5-5", "vertex_ai/gemini-2.5-pro", "azure/deployment"]
)
def test_credentials_that_may_come_from_elsewhere_are_advice(model: str) -> None:
    """Profiles, single sign-on and application defaults leave no variable to look for."""
    found = facts(model)

    assert found.key_check == "advice"
    assert any("may find credentials elsewhere" in warning for warning in found.warnings)
    assert set(found.missing_keys) < set(found.key_variables), "the worker gets what those other ways need"


def test_a_bare_gemini_id_is_told_apart_from_the_one_that_takes_a_key() -> None:
    """It goes to Vertex AI, where a Gemini key does nothing."""
    found = facts("gemini-2.5-flash")

    assert found.provider == "vertex_ai"
    assert any("gemini/gemini-2.5-flash" in warning for warning in found.warnings)


def test_ollama_needs_nothing() -> None:
    """LiteLLM asks for an address that has a default."""
    found = facts("ollama/qwen3")

    assert (found.missing_keys, found.local, found.price_known, found.host) == ([], True, True, "localhost:11434")
    assert found.supports_schema


@pytest.mark.parametrize("model", ["hosted_vllm/x", "lm_studio/x", "litellm_proxy/x"])
def test_a_server_of_one_s_own_needs_an_address(model: str) -> None:
    """Without one, LiteLLM sends hosted_vllm's prompts to OpenAI."""
    with pytest.raises(ConfigurationError, match="api_base"):
        facts(model)
    assert facts(model, api_base="http://10.1.2.3:8000/v1").host == "10.1.2.3:8000"


def test_the_default_teacher_is_known_with_its_price() -> None:
    """What every run uses that names no teacher."""
    found = facts("claude-sonnet-5-5")

    assert (found.usd_per_mtok_in, found.usd_per_mtok_out) == (2.0, 10.0)
    assert found.supports_schema
    assert found.host == "api.anthropic.com"
    assert found.max_output_tokens == 128000
    assert found.warnings == []


def test_a_teacher_that_retires_says_when() -> None:
    """The seed's default still works, for a few days."""
    found = facts("claude-sonnet-4-5")

    assert date.fromisoformat(found.retires_on) == date(2026, 11, 30)
    assert any("2026-11-30" in warning for warning in found.warnings)


@pytest.mark.parametrize("model", ["claude-future-9", "openrouter/some/model", "groq/some-model", "github/gpt-4o"])
def test_a_price_of_zero_is_an_unknown_price(model: str) -> None:
    """LiteLLM prices what it does not know at nothing, and like-named models elsewhere at another's price."""
    found = facts(model)

    assert not found.price_known
    assert found.usd_per_mtok_in is None
    assert any("price" in warning for warning in found.warnings)


def test_the_operator_s_price_is_taken() -> None:
    """It is the only one there is for a deployment of one's own."""
    found = facts("openai/mine", api_base="https://models.example.org/v1", api_key_env="MINE", usd_per_mtok=(0.5, 1.5))

    assert (found.usd_per_mtok_in, found.usd_per_mtok_out, found.price_known) == (0.5, 1.5, True)
    assert (found.key_variables, found.missing_keys) == (["MINE"], ["MINE"])


def test_an_unknown_model_on_this_machine_costs_nothing_unless_said_otherwise() -> None:
    """It is the usual local server; one that forwards to a paid model is warned of."""
    found = facts("openai/mine", api_base="http://127.0.0.1:8001/v1")

    assert (found.local, found.price_known, found.usd_per_mtok_out) == (True, True, 0.0)
    assert (found.missing_keys, found.key_check) == ([], "advice")
    assert any("forwards to a paid one" in warning for warning in found.warnings)


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "foo/bar"])
def test_the_result_is_written_for_the_process_that_asked(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server never imports LiteLLM: it starts this and reads a file."""
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    asked = {"model": model, "texts": {"said": ["Hello there"]}, "result_path": str(target)}
    source.write_text(json.dumps(asked), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["-c", str(source)])

    module.main()

    result = json.loads(target.read_text(encoding="utf-8"))
    if model == "foo/bar":
        assert result["failed"] is True
        assert result["kind"] == "configuration"
        assert result["next_step"].startswith("Give a LiteLLM id")
    else:
        looked = Looked.model_validate(result)
        assert (looked.entry.provider, looked.token_counts) == ("anthropic", {"said": [2]})


@pytest.mark.parametrize(
    ("model", "not_taken"),
    [
        ("claude-sonnet-5-5", {"temperature", "top_p", "seed"}),
        ("anthropic/claude-sonnet-4-5", {"seed"}),
        ("gpt-4o", set[str]()),
        ("o3", {"temperature", "top_p"}),
    ],
)
def test_what_a_model_does_not_take_is_known_beforehand(model: str, not_taken: set[str]) -> None:
    """LiteLLM would drop it without a word; the plan says so."""
    assert set(facts(model).not_taken) == not_taken


def test_what_the_operator_says_of_a_model_comes_before_the_map() -> None:
    """Prices change and models retire between two versions of the server."""
    said = {
        "retires_on": "2027-01-31",
        "max_output_tokens": 8192,
        "answers_by_schema": False,
        "leave_out": ["temperature"],
    }
    found = facts("gpt-4o", usd_per_mtok=(1, 2), overrides=said)

    assert (found.retires_on, found.max_output_tokens, found.supports_schema) == ("2027-01-31", 8192, False)
    assert (found.usd_per_mtok_in, found.usd_per_mtok_out) == (1, 2)
    assert found.not_taken == ["temperature"]
    assert facts("gpt-4o").supports_schema
