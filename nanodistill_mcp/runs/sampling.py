"""How the teacher writes, under LiteLLM's names, for ``options.litellm``.

What a caller may set is a list: addresses, keys, headers, callbacks and everything else LiteLLM takes are the operator's, or ours.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanodistill_mcp.errors import UserInputError, refused_values

LITELLM = ("litellm", "litellm_kwargs")

_RENAMED = {
    "temperature": "temperature",
    "max_tokens": "teacher_max_tokens",
    "max_completion_tokens": "teacher_max_tokens",
}
_OF_THE_CONFIGURATION = (
    "model",
    "api_base",
    "base_url",
    "api_key",
    "custom_llm_provider",
    "timeout",
    "request_timeout",
)
_OURS = {
    **dict.fromkeys(("messages", "response_format", "tools", "tool_choice", "functions"), "questions are asked here"),
    **dict.fromkeys(("num_retries", "max_retries", "retry_strategy"), "what fails is asked again within the budget"),
    **dict.fromkeys(("n", "stream"), "each answer is one journaled call"),
}


class Sampling(BaseModel):
    """Parameters that shape an answer. A model that takes one not is asked without it."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=4)] | None
    ) = None
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None


def translate_litellm(given: Any, put: Callable[[str, Any, str], None]) -> None:
    """Take LiteLLM's names apart into our options, ``litellm`` among them.

    Raises:
        UserInputError: A name that no caller sets, or a value out of range.
    """
    if not isinstance(given, dict):
        raise UserInputError("options.litellm is not an object.", next_step=f"Give names and values. {_names()}")
    left: dict[str, Any] = {}
    for key, value in cast("dict[Any, Any]", given).items():
        name = str(key)
        if name in _RENAMED:
            put(_RENAMED[name], value, f"litellm.{name}")
        elif name in Sampling.model_fields:
            left[name] = value
        else:
            raise UserInputError(_refusal(name), next_step=_names())
    if left:
        put("litellm", checked(left), "litellm")


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, as it is sent.

    Raises:
        UserInputError: A value is out of range.
    """
    try:
        return Sampling.model_validate(given).model_dump(exclude_none=True)
    except ValidationError as error:
        told = refused_values(error, under="litellm")
        raise UserInputError(f"The options are not accepted: {told}.", next_step=_names()) from None


def _refusal(name: str) -> str:
    if name in _OF_THE_CONFIGURATION:
        return f"options.litellm.{name} is not taken: endpoints are set under teachers in the server's configuration."
    if name in _OURS:
        return f"options.litellm.{name} is not taken: {_OURS[name]}."
    shown = f"options.litellm.{name}" if re.fullmatch(r"\w{1,40}", name) else "A name in options.litellm"
    return f"{shown} is nothing a caller sets."


def _names() -> str:
    return f"options.litellm takes: {', '.join((*_RENAMED, *Sampling.model_fields))}."
