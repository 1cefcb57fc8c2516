"""The two wire formats teachers speak, seen from the server's side: what a request asks, and how a reply is written.

OpenAI chat completions and Anthropic messages, in the bodies the providers document. Streaming is not spoken.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Wire = Literal["openai", "anthropic"]
Failure = Literal[
    "auth",
    "forbidden",
    "no_model",
    "rate_limit",
    "no_credit",
    "server",
    "overloaded",
    "too_long",
    "policy",
    "parameter",
]


@dataclass(frozen=True)
class WireRequest:
    """One request for an answer, with both formats read into the same fields."""

    wire: Wire
    model: str
    system: str
    user: str = field(repr=False)
    schema_name: str
    schema: dict[str, Any] | None = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: dict[str, Any] = field(repr=False)

    @property
    def turns(self) -> int:
        """How many messages were sent, the system message aside; more than one when the answer is asked for again."""
        return sum(message.get("role") != "system" for message in self.body.get("messages", []))


@dataclass(frozen=True)
class Says:
    """An answer: a dict in whichever structured form was asked for, a text as plain words, an empty text as nothing."""

    value: dict[str, Any] | str
    ending: Literal["complete", "truncated", "filtered"] = "complete"
    input_tokens: int | None = None
    output_tokens: int | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay_s: float = 0.0


@dataclass(frozen=True)
class Refuses:
    """The model declines, in the way its provider marks it."""

    text: str = "I can't help with that."
    delay_s: float = 0.0


@dataclass(frozen=True)
class Fails:
    """An HTTP error with the provider's body. ``name`` is the parameter that kind "parameter" complains of."""

    kind: Failure
    name: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay_s: float = 0.0


@dataclass(frozen=True)
class Breaks:
    """Something that is no answer: a proxy's page, half a body, a closed connection, a body a byte at a time."""

    how: Literal["html", "half_json", "reset", "trickle"]
    delay_s: float = 0.0


WireReply = Says | Refuses | Fails | Breaks

_FAILURES: dict[Wire, dict[str, tuple[int, str, str | None, str]]] = {
    "openai": {
        "auth": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-test."),
        "forbidden": (403, "invalid_request_error", "permission_denied", "Project does not have access to model."),
        "no_model": (
            404,
            "invalid_request_error",
            "model_not_found",
            "The model does not exist or you do not have access to it.",
        ),
        "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached on requests per min (RPM)."),
        "no_credit": (
            429,
            "insufficient_quota",
            "insufficient_quota",
            "You exceeded your current quota, please check your plan.",
        ),
        "server": (500, "server_error", None, "The server had an error while processing your request."),
        "overloaded": (503, "server_error", None, "The engine is currently overloaded, please try again later."),
        "too_long": (
            400,
            "invalid_request_error",
            "context_length_exceeded",
            "This model's maximum context length is 8192 tokens.",
        ),
        "policy": (
            400,
            "invalid_request_error",
            "content_policy_violation",
            "Your request was rejected by our safety system.",
        ),
        "parameter": (
            400,
            "invalid_request_error",
            "unsupported_parameter",
            "Unsupported parameter: '{name}' is not supported.",
        ),
    },
    "anthropic": {
        "auth": (401, "authentication_error", None, "invalid x-api-key"),
        "forbidden": (
            403,
            "permission_error",
            None,
            "Your API key does not have permission to use the specified resource.",
        ),
        "no_model": (404, "not_found_error", None, "model: not found"),
        "rate_limit": (429, "rate_limit_error", None, "This request would exceed your organization's rate limit."),
        "no_credit": (
            400,
            "invalid_request_error",
            None,
            "Your credit balance is too low to access the Anthropic API.",
        ),
        "server": (500, "api_error", None, "Internal server error"),
        "overloaded": (529, "overloaded_error", None, "Overloaded"),
        "too_long": (400, "invalid_request_error", None, "prompt is too long: 208310 tokens > 200000 maximum"),
        "policy": (400, "invalid_request_error", None, "Output blocked by content filtering policy"),
        "parameter": (400, "invalid_request_error", None, "{name}: this parameter is not supported for this model."),
    },
}


def read_request(wire: Wire, body: dict[str, Any], headers: dict[str, str]) -> WireRequest:
    """Read a request of either format."""
    messages: list[dict[str, Any]] = body.get("messages", [])
    system = [_text_of(m.get("content")) for m in messages if m.get("role") == "system"]
    if wire == "anthropic":
        system.append(_text_of(body.get("system")))
    name, schema = _asked_schema(wire, body)
    return WireRequest(
        wire=wire,
        model=str(body.get("model", "")),
        system="\n".join(part for part in system if part),
        user="\n".join(_text_of(m.get("content")) for m in messages if m.get("role") == "user"),
        schema_name=name,
        schema=schema,
        headers=headers,
        body=body,
    )


def failure(wire: Wire, fails: Fails) -> tuple[int, dict[str, Any]]:
    """The status and body of a failure in one provider's words."""
    status, kind, code, message = _FAILURES[wire][fails.kind]
    message = message.format(name=fails.name)
    if wire == "anthropic":
        return status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_demo"}
    return status, {"error": {"message": message, "type": kind, "param": fails.name or None, "code": code}}


def completion(request: WireRequest, reply: Says | Refuses, number: int) -> dict[str, Any]:
    """The body of a completed request."""
    answer = reply.text if isinstance(reply, Refuses) else reply.value
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    asked, written = len(request.system) + len(request.user), len(text)
    given = reply if isinstance(reply, Says) else Says("")
    tokens_in = asked // 4 + 1 if given.input_tokens is None else given.input_tokens
    tokens_out = written // 4 + 1 if given.output_tokens is None else given.output_tokens
    write = _openai_completion if request.wire == "openai" else _anthropic_completion
    return write(request, reply, text, number, (tokens_in, tokens_out))


def current_claude_refuses(body: dict[str, Any]) -> str | None:
    """What a current Claude model answers 400 to: sampling parameters, a forced tool, words put into its mouth."""
    for name in ("temperature", "top_p", "top_k"):
        if name in body and not (name == "temperature" and body[name] == 1):
            return f"`{name}` is deprecated for this model."
    if _part(body.get("tool_choice")).get("type") in ("any", "tool"):
        return "tool_choice: forced tool use is not supported for this model."
    if body["messages"] and body["messages"][-1]["role"] == "assistant":
        return "This model does not support assistant message prefill."
    return None


def _text_of(content: Any) -> str:
    """The text of a message's content, which is a text or a list of typed blocks."""
    if isinstance(content, list):
        blocks = [_part(block) for block in cast("list[Any]", content)]
        return "\n".join(_text_of(block.get("text") or block.get("content")) for block in blocks)
    return content if isinstance(content, str) else ""


def _part(value: Any) -> dict[str, Any]:
    """An object of a body, or an empty one where something else stands."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _asked_schema(wire: Wire, body: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    if body.get("tools"):
        tool = _part(body["tools"][0])
        tool = _part(tool.get("function")) or tool
        return tool.get("name", ""), tool.get("parameters") or tool.get("input_schema")
    if wire == "openai":
        form = _part(_part(body.get("response_format")).get("json_schema"))
        return form.get("name", ""), form.get("schema")
    form = _part(body.get("output_format")) or _part(_part(body.get("output_config")).get("format"))
    schema = _part(form.get("schema"))
    return schema.get("title", ""), schema or None  # this format has no name; pydantic's title is the class's


def _openai_completion(
    request: WireRequest, reply: Says | Refuses, text: str, number: int, tokens: tuple[int, int]
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    finish = {"complete": "stop", "truncated": "length", "filtered": "content_filter"}
    reason = finish[reply.ending] if isinstance(reply, Says) else "stop"
    if isinstance(reply, Refuses):
        message = {"role": "assistant", "content": None, "refusal": text}
    elif request.body.get("tools") and isinstance(reply.value, dict):
        call = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": request.schema_name, "arguments": text},
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if reason == "stop" else reason
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def _anthropic_completion(
    request: WireRequest, reply: Says | Refuses, text: str, number: int, tokens: tuple[int, int]
) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    finish = {"complete": "end_turn", "truncated": "max_tokens", "filtered": "refusal"}
    reason = finish[reply.ending] if isinstance(reply, Says) else "refusal"
    if isinstance(reply, Says) and request.body.get("tools") and isinstance(reply.value, dict):
        content = [{"type": "tool_use", "id": f"toolu_{number}", "name": request.schema_name, "input": reply.value}]
        reason = "tool_use" if reason == "end_turn" else reason
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }
