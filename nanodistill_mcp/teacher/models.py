"""What is known of a teacher model before it is asked: its provider, its price, the form its answers can take."""

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast
from urllib.parse import urlsplit

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.libraries import litellm

_PROBES: dict[str, float | int] = {"temperature": 0.7129, "top_p": 0.9317, "seed": 771_239}
"""Values that are found again wherever LiteLLM puts them in a provider's request."""

EXAMPLES = "claude-sonnet-5-5, gpt-5.2, gemini/gemini-2.5-flash, openrouter/<maker>/<model>, ollama/<model>"


@dataclass(frozen=True)
class ModelFacts:
    """What LiteLLM's offline map and our own dated corrections say about a model."""

    model: str
    """The id LiteLLM is called with: plain ``ollama/`` would use an endpoint without JSON schemas."""
    provider: str
    mapped: bool
    answers_by_schema: bool
    calls_tools: bool
    thinks_unasked: bool
    """Its own reasoning is on unless told otherwise, is billed as output and counts against max_tokens."""
    usd_per_mtok: tuple[float, float] | None
    """Prices of a million input and output tokens; None when unknown. LiteLLM prices what it does not know at zero; only
    for a model on this machine is zero believed."""
    max_output_tokens: int
    retires_on: str
    not_taken: frozenset[str] = frozenset()
    """Parameters that are not sent to it: LiteLLM would drop them, or the operator says so."""


@cache
def provider_notes() -> dict[str, Any]:
    """The dated corrections to what LiteLLM says of providers."""
    return json.loads(resources.files("nanodistill_mcp.teacher").joinpath("providers.json").read_text(encoding="utf-8"))


def model_facts(endpoint: TeacherEndpoint) -> ModelFacts:
    """Look a teacher up, offline.

    Raises:
        ConfigurationError: No provider goes with the model's id.
    """
    try:
        bare, provider, _, _ = litellm().get_llm_provider(model=endpoint.model)
    except litellm().exceptions.BadRequestError:
        raise ConfigurationError(
            f"No provider goes with the teacher id '{endpoint.model}'.",
            next_step=f"Give a LiteLLM id, with its provider where it has one: {EXAMPLES}.",
        ) from None
    entry = _map_entry(endpoint.model, bare, provider)
    known = endpoint.overrides
    claude = "claude" in endpoint.model
    # Without it LiteLLM turns the schema into a forced tool for Claude, with references that do not resolve.
    schema = "supports_native_structured_output" if claude else "supports_response_schema"
    free = provider in provider_notes()["free_and_local"] or (entry is None and is_loopback(_host(endpoint.api_base)))
    thinks = bool(entry and entry.get("supports_reasoning") and (entry.get("thinking_always_on") or not claude))
    thinks = _either(known.thinks_unasked, thinks)
    return ModelFacts(
        model=f"ollama_chat/{bare}" if provider == "ollama" else endpoint.model,
        provider=provider,
        mapped=entry is not None,
        answers_by_schema=_either(known.answers_by_schema, bool(entry.get(schema)) if entry else not claude),
        calls_tools=_either(known.calls_tools, bool(entry.get("supports_function_calling")) if entry else claude),
        thinks_unasked=thinks,
        usd_per_mtok=endpoint.usd_per_mtok or _price(entry) or ((0.0, 0.0) if free else None),
        max_output_tokens=known.max_output_tokens or int((entry or {}).get("max_output_tokens") or 0),
        retires_on=str(known.retires_on or (entry or {}).get("deprecation_date") or ""),
        not_taken=_dropped(bare, provider, thinks=thinks) | set(known.leave_out),
    )


def host_of(endpoint: TeacherEndpoint, provider: str) -> str:
    """The host that prompts and the key are sent to."""
    variable = address_variable(provider)
    address = endpoint.api_base or os.environ.get(variable, "") or litellm().get_llm_provider(model=endpoint.model)[3]
    return _host(address or "") or provider_notes()["hosts"].get(provider, provider)


def address_variable(provider: str) -> str:
    """The environment variable that says where a provider is reached; empty when its address is fixed."""
    return provider_notes()["address_variable"].get(provider, "")


def expected_keys(model: str) -> list[str]:
    """The environment variables LiteLLM looks for. It names only missing ones, so it is asked where all are missing."""
    library = litellm()
    present, os.environ = os.environ, cast("Any", {})
    try:
        return list(library.validate_environment(model)["missing_keys"])
    finally:
        os.environ = present  # noqa: B003 - the same mapping as before; the process's own environment never changed


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or name.startswith("127.")


def _either(said: bool | None, found: bool) -> bool:  # noqa: FBT001 - two answers to one question
    return found if said is None else said


def _dropped(bare: str, provider: str, *, thinks: bool) -> frozenset[str]:
    """Which sampling parameters LiteLLM drops for a model, asked as a question that thinks unasked is asked."""
    effort = {"reasoning_effort": "low"} if thinks else {}
    lost: set[str] = set()
    for name, value in _PROBES.items():
        wanted: dict[str, Any] = {name: value, **effort, "drop_params": True}
        try:
            sent = litellm().utils.get_optional_params(model=bare, custom_llm_provider=provider, **wanted)
        except Exception:  # noqa: BLE001, S112 - LiteLLM's own table failed on an odd provider: the first call will tell
            continue
        if str(value) not in str(sent):
            lost.add(name)
    return frozenset(lost)


def _host(address: str) -> str:
    return urlsplit(address).netloc


def _map_entry(model: str, bare: str, provider: str) -> dict[str, Any] | None:
    """The map's entry for this very model at this very provider; a like-named model elsewhere has another price."""
    prices = litellm().model_cost
    for name in (model, f"{provider}/{bare}", bare):
        entry = prices.get(name)
        if entry and str(entry.get("litellm_provider", "")).startswith(provider):
            return entry
    return None


def _price(entry: dict[str, Any] | None) -> tuple[float, float] | None:
    per_token = [float((entry or {}).get(key) or 0.0) for key in ("input_cost_per_token", "output_cost_per_token")]
    return (per_token[0] * 1e6, per_token[1] * 1e6) if all(per_token) else None
