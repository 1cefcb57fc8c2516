"""What can be known of a teacher before a cent is spent: provider, key, price, host, and what speaks against it.

What only LiteLLM knows is looked up in a short process of its own, because it takes seconds to import; the rest is put together
by whoever asks. Nothing leaves the machine.
"""

import json
import os
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nanodistill_mcp.errors import ConfigurationError, NanodistillError, UserInputError
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.settings import HOST_TEACHER, TeacherEndpoint
from nanodistill_mcp.teacher.catalogue import CatalogueEntry, count_tokens, look_up
from nanodistill_mcp.teacher.models import address_variable, is_loopback, model_facts, provider_notes

_SEEN = (
    "You are the teacher: let an agent answer that has not seen the examples' outputs, such as a subagent with a fresh context, "
    "or agreement with them proves nothing."
)

_COUNTED_WITHIN = {"openai": 0.05, "": 0.3}
"""How far LiteLLM's offline count may be off: its tokenizer is OpenAI's; what others publish is old or nothing."""

_RETIREMENT_NOTICE = timedelta(days=120)


class TeacherFacts(BaseModel):
    """What is known of a teacher without asking it anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    provider: str
    supports_schema: bool = Field(description="It answers in a given JSON schema; others are asked in words.")
    key_variables: list[str] = Field(description="The environment variables a worker needs that calls this teacher.")
    missing_keys: list[str] = Field(description="Names of which one has to be set, when none is.")
    key_check: Literal["required", "advice"] = Field(description="advice: credentials may also come from elsewhere.")
    usd_per_mtok_in: float | None
    usd_per_mtok_out: float | None
    price_known: bool
    local: bool = Field(description="It runs on this machine: nothing is sent anywhere and nothing is paid.")
    max_output_tokens: int = Field(description="0 when unknown.")
    retires_on: str = Field(description="ISO date; empty when none is announced.")
    not_taken: list[str] = Field(default=[], description="Sampling parameters that are not sent to it.")
    host: str = Field(description="Where prompts and the key are sent.")
    warnings: list[str]
    thinks_unasked: bool = Field(default=False, description="Its own reasoning is on, and billed as output.")
    token_counts: dict[str, list[int]] = Field(default={}, description="Tokens of the texts that were to be counted.")
    tokens_within: float = Field(default=0.0, description="How far the counts may be off, as a share.")

    @property
    def usd_per_mtok(self) -> tuple[float, float] | None:
        """Prices of a million input and output tokens; None when unknown."""
        if self.usd_per_mtok_in is None or self.usd_per_mtok_out is None:
            return None
        return self.usd_per_mtok_in, self.usd_per_mtok_out


class Looked(BaseModel):
    """What LiteLLM says of a model's id, and how many tokens some texts have there."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    entry: CatalogueEntry
    token_counts: dict[str, list[int]] = {}


def look_at(model: str, texts: dict[str, list[str]] | None = None) -> Looked:
    """Ask LiteLLM about a model's id, and count the tokens of texts by name. Imports it: seconds.

    Raises:
        ConfigurationError: No provider goes with the id.
    """
    return Looked(entry=look_up(model), token_counts=count_tokens(model, texts or {}))


def teacher_facts(endpoint: TeacherEndpoint, looked: Looked) -> TeacherFacts:
    """What is known of a teacher as it is configured. Its key's presence is checked; the key is proved by the first call.

    Raises:
        ConfigurationError: The provider has no address of its own and none is set.
    """
    facts = model_facts(endpoint, looked.entry)
    notes = provider_notes()
    _require_address(endpoint, facts.provider)
    host = facts.host
    variables, missing, required = _keys(endpoint, looked.entry)
    local = facts.provider in notes["free_and_local"] or is_loopback(host)
    prices = facts.usd_per_mtok
    warnings = [
        *_retirement(endpoint.model, facts.retires_on),
        *_credentials_elsewhere(facts.provider, missing, required=required),
        *_routing(endpoint.model, facts.provider),
    ]
    if prices is None:
        warnings.append(f"The price of '{endpoint.model}' is not known.")
    elif endpoint.api_base and local and not facts.mapped and endpoint.usd_per_mtok is None:
        warnings.append(
            f"The teacher at {host} is taken to cost nothing; give usd_per_mtok if it forwards to a paid one."
        )
    return TeacherFacts(
        model=endpoint.model,
        provider=facts.provider,
        supports_schema=facts.answers_by_schema,
        key_variables=variables,
        missing_keys=missing,
        key_check="required" if required else "advice",
        usd_per_mtok_in=prices[0] if prices else None,
        usd_per_mtok_out=prices[1] if prices else None,
        price_known=prices is not None,
        local=local,
        max_output_tokens=facts.max_output_tokens,
        retires_on=facts.retires_on,
        not_taken=sorted(facts.not_taken),
        host=host,
        warnings=warnings,
        thinks_unasked=facts.thinks_unasked,
        token_counts=looked.token_counts,
        tokens_within=_COUNTED_WITHIN["openai"] if facts.provider == "openai" and facts.mapped else _COUNTED_WITHIN[""],
    )


def host_facts() -> TeacherFacts:
    """What is known of the calling agent as the teacher: it needs no key and costs this run nothing."""
    return _free(HOST_TEACHER, HOST_TEACHER, supports_schema=True, local=False, host="this chat", warning=_SEEN)


def mlx_facts(endpoint: TeacherEndpoint, *, bytes_on_disk: int, bytes_missing: int) -> TeacherFacts:
    """What is known of a model as the teacher that a worker keeps itself.

    Raises:
        UserInputError: Its weights are not on this machine: nothing is fetched for a teacher.
    """
    if bytes_missing:
        raise UserInputError(
            f"The teacher {endpoint.name!r} is not on this machine: {bytes_missing / 1e9:.1f} GB of it are missing.",
            next_step=f"Fetch it first, in a terminal: hf download {endpoint.mlx_model}. Then call create_run again. Nothing was spent.",
        )
    told = (
        f"The teacher answers on this machine, takes about {bytes_on_disk / 1e9:.1f} GB of memory and more while it works, and "
        "costs nothing; how long it takes depends on this machine alone."
    )
    return _free(endpoint.model, "mlx", supports_schema=False, local=True, host="this machine", warning=told)


def _free(model: str, provider: str, *, supports_schema: bool, local: bool, host: str, warning: str) -> TeacherFacts:
    """A teacher that has no provider: it needs no key and costs this run nothing."""
    return TeacherFacts(
        model=model,
        provider=provider,
        supports_schema=supports_schema,
        key_variables=[],
        missing_keys=[],
        key_check="advice",
        usd_per_mtok_in=0.0,
        usd_per_mtok_out=0.0,
        price_known=True,
        local=local,
        max_output_tokens=0,
        retires_on="",
        host=host,
        warnings=[warning],
    )


def main() -> None:
    """Look up the model that the file named asks about, and write what was found, or why not, where it says."""
    asked = json.loads(Path(sys.argv[1]).read_bytes())
    try:
        found = look_at(asked["model"], asked["texts"]).model_dump()
    except NanodistillError as error:
        found = {"failed": True, "kind": error.kind, "what": error.what, "next_step": error.next_step}
    write_json(Path(asked["result_path"]), found, durable=False)


def _keys(endpoint: TeacherEndpoint, entry: CatalogueEntry) -> tuple[list[str], list[str], bool]:
    """The variables a worker needs, the names of which one is missing, and whether a missing one is certain to fail."""
    notes, provider = provider_notes(), entry.provider
    further = [name for name in notes["further_variables"].get(provider, []) if name != endpoint.api_key_env]
    if endpoint.api_key_env:
        missing = [] if os.environ.get(endpoint.api_key_env) else [endpoint.api_key_env]
        return [endpoint.api_key_env, *further], missing, True
    if endpoint.api_base or provider in notes["free_and_local"]:
        return further, [], False
    names = entry.keys + notes["unlisted_keys"].get(provider, [])
    names = list(dict.fromkeys(names + notes["also_accepted_keys"].get(provider, [])))
    if provider in notes["other_credentials"]:
        absent = [name for name in names if not os.environ.get(name)]
        return list(dict.fromkeys(names + further)), absent, False
    missing = [] if any(os.environ.get(name) for name in names) else names
    return names + further, missing, bool(names)


def _require_address(endpoint: TeacherEndpoint, provider: str) -> None:
    """Refuse a provider without an address: LiteLLM would send the prompts to another one's."""
    variable = address_variable(provider)
    if provider in provider_notes()["needs_address"] and not endpoint.api_base and not os.environ.get(variable):
        raise ConfigurationError(
            f"The teacher '{endpoint.model}' has no address: {provider} is wherever you run it.",
            next_step="Add it under `teachers` in the server's configuration with its model and api_base, and restart the server.",
        )


def _retirement(model: str, retires_on: str) -> list[str]:
    try:
        day = date.fromisoformat(retires_on)
    except ValueError:
        return []
    today = datetime.now(UTC).date()
    if day <= today:
        return [f"'{model}' was to be retired on {day}: its provider may refuse it."]
    return [f"'{model}' retires on {day}."] if day - today < _RETIREMENT_NOTICE else []


def _credentials_elsewhere(provider: str, missing: list[str], *, required: bool) -> list[str]:
    if not missing or required:
        return []
    return [f"{', '.join(missing)} is not set; {provider} may find credentials elsewhere. The first call will tell."]


def _routing(model: str, provider: str) -> list[str]:
    if provider == "vertex_ai" and model.startswith("gemini-"):
        return [f"'{model}' goes to Vertex AI; write 'gemini/{model}' to use a Gemini API key."]
    return []


if __name__ == "__main__":
    main()
