"""What is known of a teacher model before it is asked: its provider, its price, the form its answers can take."""

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nanodistill_mcp.settings import TeacherEndpoint

if TYPE_CHECKING:  # the server looks teachers up too, and never imports what the catalogue is made of
    from nanodistill_mcp.teacher.catalogue import CatalogueEntry


@dataclass(frozen=True)
class ModelFacts:
    """What LiteLLM's catalogue, our own dated corrections and the operator say about a teacher, each over the one before."""

    model: str
    """The id LiteLLM is called with: plain ``ollama/`` would use an endpoint without JSON schemas."""
    provider: str
    host: str
    """Where prompts and the key are sent."""
    keys: tuple[str, ...]
    """The environment variables LiteLLM looks for."""
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


def model_facts(endpoint: TeacherEndpoint, entry: "CatalogueEntry") -> ModelFacts:
    """What is known of a teacher, by its entry in the catalogue and by what is configured."""
    provider, known = entry.provider, endpoint.overrides
    claude = "claude" in endpoint.model
    # Without the native form LiteLLM turns the schema into a forced tool for Claude, with references that do not resolve.
    schema = entry.native_schema if claude else entry.response_schema
    here = not entry.mapped and is_loopback(_host(endpoint.api_base))
    free = provider in provider_notes()["free_and_local"] or here
    thinks = _either(known.thinks_unasked, entry.reasons and (entry.always_thinks or not claude))
    dropped = entry.dropped_when_thinking if thinks else entry.dropped
    return ModelFacts(
        model=f"ollama_chat/{entry.bare}" if provider == "ollama" else endpoint.model,
        provider=provider,
        host=_host_of(endpoint, entry),
        keys=tuple(entry.keys),
        mapped=entry.mapped,
        answers_by_schema=_either(known.answers_by_schema, schema if entry.mapped else not claude),
        calls_tools=_either(known.calls_tools, entry.calls_tools if entry.mapped else claude),
        thinks_unasked=thinks,
        usd_per_mtok=endpoint.usd_per_mtok or entry.usd_per_mtok or ((0.0, 0.0) if free else None),
        max_output_tokens=known.max_output_tokens or entry.max_output_tokens,
        retires_on=str(known.retires_on or entry.retires_on),
        not_taken=frozenset(dropped) | set(known.leave_out),
    )


def address_variable(provider: str) -> str:
    """The environment variable that says where a provider is reached; empty when its address is fixed."""
    return provider_notes()["address_variable"].get(provider, "")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or name.startswith("127.")


def _host_of(endpoint: TeacherEndpoint, entry: "CatalogueEntry") -> str:
    address = endpoint.api_base or os.environ.get(address_variable(entry.provider), "") or entry.address
    return _host(address) or provider_notes()["hosts"].get(entry.provider, entry.provider)


def _either(said: bool | None, found: bool) -> bool:  # noqa: FBT001 - two answers to one question
    return found if said is None else said


def _host(address: str) -> str:
    return urlsplit(address).netloc
