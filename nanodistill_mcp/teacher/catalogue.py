"""What LiteLLM, offline, says of a model's id: the same for everyone who has this LiteLLM, whatever is configured here."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.teacher.libraries import litellm

EXAMPLES = "claude-sonnet-5-5, gpt-5.2, gemini/gemini-2.5-flash, openrouter/<maker>/<model>, ollama/<model>"

_PROBES: dict[str, float | int] = {"temperature": 0.7129, "top_p": 0.9317, "seed": 771_239}
"""Values that are found again wherever LiteLLM puts them in a provider's request."""


class CatalogueEntry(BaseModel):
    """One model id as LiteLLM's code and its map of models know it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    bare: str = Field(description="The id without its provider.")
    provider: str
    address: str = Field(description="Where LiteLLM sends it when nobody says otherwise; empty when it does not say.")
    keys: list[str] = Field(description="The environment variables LiteLLM looks for.")
    mapped: bool = Field(description="The map has this very model at this very provider.")
    response_schema: bool
    native_schema: bool = Field(description="Only Claude's are marked so.")
    calls_tools: bool
    reasons: bool
    always_thinks: bool
    usd_per_mtok: tuple[float, float] | None = Field(description="None where LiteLLM knows none, or zero.")
    max_output_tokens: int
    retires_on: str
    dropped: list[str] = Field(description="Sampling parameters that LiteLLM would not send to it.")
    dropped_when_thinking: list[str]


def look_up(model: str) -> CatalogueEntry:
    """What LiteLLM says of a model id.

    Raises:
        ConfigurationError: No provider goes with the id.
    """
    library = litellm()
    with _nothing_set():
        try:
            bare, provider, _, address = library.get_llm_provider(model=model)
        except library.exceptions.BadRequestError:
            raise ConfigurationError(
                f"No provider goes with the teacher id '{model}'.",
                next_step=f"Give a LiteLLM id, with its provider where it has one: {EXAMPLES}.",
            ) from None
        keys = list(library.validate_environment(model)["missing_keys"])
    found = _map_entry(model, bare, provider)
    entry = found or {}
    return CatalogueEntry(
        model=model,
        bare=bare,
        provider=provider,
        address=address or "",
        keys=keys,
        mapped=found is not None,
        response_schema=bool(entry.get("supports_response_schema")),
        native_schema=bool(entry.get("supports_native_structured_output")),
        calls_tools=bool(entry.get("supports_function_calling")),
        reasons=bool(entry.get("supports_reasoning")),
        always_thinks=bool(entry.get("thinking_always_on")),
        usd_per_mtok=_price(entry),
        max_output_tokens=int(entry.get("max_output_tokens") or 0),
        retires_on=str(entry.get("deprecation_date") or ""),
        dropped=_dropped(bare, provider),
        dropped_when_thinking=_dropped(bare, provider, reasoning_effort="low"),
    )


def count_tokens(model: str, texts: dict[str, list[str]]) -> dict[str, list[int]]:
    """Count tokens with the tokenizer LiteLLM has at hand for a model. Nothing is fetched."""
    library = litellm()
    library.disable_hf_tokenizer_download = "claude" not in model  # Claude's is bundled, others would be fetched
    return {name: [library.token_counter(model=model, text=text) for text in theirs] for name, theirs in texts.items()}


@contextmanager
def _nothing_set() -> Generator[None]:
    """An empty environment: LiteLLM names only the keys that are missing, and takes an address from a variable."""
    present, os.environ = os.environ, cast("Any", {})
    try:
        yield
    finally:
        os.environ = present  # noqa: B003 - the same mapping as before; the process's own environment never changed


def _dropped(bare: str, provider: str, **effort: str) -> list[str]:
    """Which sampling parameters LiteLLM drops for a model."""
    lost: list[str] = []
    for name, value in _PROBES.items():
        wanted: dict[str, Any] = {name: value, **effort, "drop_params": True}
        try:
            sent = litellm().utils.get_optional_params(model=bare, custom_llm_provider=provider, **wanted)
        except Exception:  # noqa: BLE001, S112 - LiteLLM's own table failed on an odd provider: the first call will tell
            continue
        if str(value) not in str(sent):
            lost.append(name)
    return lost


def _map_entry(model: str, bare: str, provider: str) -> dict[str, Any] | None:
    """The map's entry for this very model at this very provider; a like-named model elsewhere has another price."""
    prices = litellm().model_cost
    for name in (model, f"{provider}/{bare}", bare):
        entry = prices.get(name)
        if entry and str(entry.get("litellm_provider", "")).startswith(provider):
            return entry
    return None


def _price(entry: dict[str, Any]) -> tuple[float, float] | None:
    per_token = [float(entry.get(key) or 0.0) for key in ("input_cost_per_token", "output_cost_per_token")]
    return (per_token[0] * 1e6, per_token[1] * 1e6) if all(per_token) else None
