"""What may be asked: every field checked, every text cleaned, and whatever is wrong said in words and with a status."""

import json
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from nanodistill_mcp.runs.texts import clean

MOST_BYTES = 1 << 20
MOST_CHARS = 200_000
_MOST_DEEP = 32
_MOST_MESSAGES = 512
_MOST_STOPS = 4
_MOST_INSTANCES = 64
_MOST_TOKENS = 1 << 20
_NAMED_CHARS = 60


class RefusedError(Exception):
    """A request that is not answered, as OpenAI's API words it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")  # noqa: PLR2004 - HTTP's own
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def _cleaned(text: str) -> str:
    return clean(text.replace("\r\n", "\n").replace("\r", "\n"))


def _joined(content: object) -> object:
    """A message's text; parts are put together, and what is not text is refused by the type that follows."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in cast("list[object]", content):
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                msg = "only parts of type text are read here"
                raise ValueError(msg)
    return "".join(texts)


Text = Annotated[StrictStr, AfterValidator(_cleaned), Field(max_length=MOST_CHARS)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Tokens = Annotated[StrictInt, Field(ge=1, le=_MOST_TOKENS)]
_Stop = Annotated[StrictStr, Field(min_length=1, max_length=500)]


class Said(BaseModel):
    """A message. What clients add to one beside its text is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_joined)]


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    include_usage: StrictBool = False


class _Sampling(BaseModel):
    """How an answer is drawn: greedily, as the model was evaluated, unless a temperature is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: _Tokens | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MOST_STOPS)] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts at which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class _OpenAI(_Sampling):
    """What both of OpenAI's forms take. What changes nothing here is taken and not used; what would, is refused."""

    model: StrictStr | None = None
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[StrictInt, Field(ge=1, le=1)] | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    frequency_penalty: Annotated[_Number, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[_Number, Field(ge=0, le=0)] | None = None


class Chat(_OpenAI):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Said], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_completion_tokens: _Tokens | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    verbosity: Any = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> Self:
        if self.messages[-1].role != "user":
            msg = "the last message is to be the user's"
            raise ValueError(msg)
        if sum(len(message.content) for message in self.messages) > MOST_CHARS:
            msg = f"together the messages may have {MOST_CHARS} characters"
            raise ValueError(msg)
        return self


class Completion(_OpenAI):
    """``POST /v1/completions``: one prompt, which is an input of the task."""

    prompt: Text
    echo: Literal[False] | None = None
    best_of: Annotated[StrictInt, Field(ge=1, le=1)] | None = None


class _Parameters(_Sampling):
    """Hugging Face's name for the sampling, with its name for max_tokens."""

    max_new_tokens: _Tokens | None = None


class Invocation(_Sampling):
    """``POST /invocations``: one input of the task under any of three names, or several as instances."""

    prompt: Text | None = None
    input: Text | None = None
    inputs: Text | None = None
    instances: Annotated[list[Any], Field(min_length=1, max_length=_MOST_INSTANCES)] | None = None
    parameters: _Parameters | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.input, self.inputs, self.instances)) != 1:
            msg = "give one of prompt, input, inputs or instances"
            raise ValueError(msg)
        return self

    @property
    def texts(self) -> list[str]:
        """The inputs of the task."""
        if self.instances is None:
            return [next(given for given in (self.prompt, self.input, self.inputs) if given is not None)]
        return [_INSTANCE.validate_python(each).text for each in self.instances]

    @property
    def sampling(self) -> _Sampling:
        """How to draw; what stands in parameters goes before."""
        return self.parameters or self

    @property
    def most_tokens(self) -> int | None:
        """How long an answer may get."""
        further = self.parameters
        return (further and (further.max_new_tokens or further.max_tokens)) or self.max_tokens


class _Instance(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text


def _as_instance(each: object) -> object:
    if isinstance(each, dict):
        named = cast("dict[str, object]", each)
        return {"text" if name in ("prompt", "input", "inputs") else name: value for name, value in named.items()}
    return {"text": each}


_INSTANCE: TypeAdapter[_Instance] = TypeAdapter(Annotated[_Instance, BeforeValidator(_as_instance)])

Sampling = _Sampling
Body = Chat | Completion | Invocation


def read_object(data: bytes) -> dict[str, Any]:
    """A request's body as JSON.

    Raises:
        RefusedError: It is not one JSON object, or nested deeper than anything asked here.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise RefusedError(400, "The body is to be one JSON object.")
    if _depth(cast("object", value)) > _MOST_DEEP:
        raise RefusedError(400, f"The body is nested deeper than {_MOST_DEEP} levels.")
    return cast("dict[str, Any]", value)


def read_body(kind: type[Chat] | type[Completion] | type[Invocation], value: dict[str, Any]) -> Body:
    """A request's body, checked.

    Raises:
        RefusedError: Something in it is not taken; says what.
    """
    try:
        body = kind.model_validate(value)
        if isinstance(body, Invocation):
            _ = body.texts
    except ValidationError as error:
        raise _in_words(error) from None
    return body


def _in_words(error: ValidationError) -> RefusedError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"] if not _is_a_type(part))
    param = clean(param)[:_NAMED_CHARS]
    match first["type"]:
        case "extra_forbidden":
            why = "is not taken here"
        case "missing":
            why = "is missing"
        case _:
            why = f"is not accepted: {first['msg'].removeprefix('Value error, ')}"
    return RefusedError(400, f"'{param}' {why}." if param else f"The body {why}.", param=param or None)


def _is_a_type(part: object) -> bool:
    """Pydantic puts the branches of a union into the place of an error."""
    return isinstance(part, str) and ("[" in part or part in ("str", "constrained-str"))


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _depth(value: object) -> int:
    """How deep a value is nested, found without recursion."""
    level: list[object] = [value]
    depth = 0
    while level:
        depth += 1
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += cast("dict[str, object]", each).values()
            elif isinstance(each, list):
                inner += cast("list[object]", each)
        level = [each for each in inner if isinstance(each, (dict, list))]
    return depth
