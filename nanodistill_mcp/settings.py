"""The server's configuration, read once: command line > environment > YAML file > defaults, with the origin of each value.

Endpoints, prices, allowed directories and caps come from here and from nowhere else: no tool argument reaches them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nanodistill_mcp.errors import ConfigurationError, UserInputError, refused_values

DEFAULT_TEACHER = "claude-sonnet-5-5"
DEFAULT_STUDENT = "mlx-community/Qwen3-4B-Instruct-2507-4bit"

HOST_TEACHER = "host"
"""The teacher that is the calling agent itself."""

MLX_TEACHER = "mlx/"
"""Before a student's name: that model is the teacher, kept by the worker on this machine."""

PromptName = Literal["cot", "direct", "derive", "policy", "synthetic", "judge"]

TrackerName = Literal["mlflow", "wandb", "trackio"]

Sampling = Literal["temperature", "top_p", "seed", "reasoning_effort"]
"""Parameters that shape an answer and that not every model takes."""

PriceUsd = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Origin = Literal["command line", "environment", "file", "default"]

_TEACHER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}\Z")


class ModelOverrides(BaseModel):
    """What the operator knows better about a model than the dated data that came with the server."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    usd_per_mtok: tuple[PriceUsd, PriceUsd] | None = Field(
        default=None, description="Price of a million input and output tokens."
    )
    retires_on: date | None = Field(default=None, description="The day from which its provider may refuse it.")
    max_output_tokens: int | None = Field(default=None, ge=16)
    answers_by_schema: bool | None = Field(default=None, description="It keeps to a JSON schema that is sent along.")
    calls_tools: bool | None = None
    thinks_unasked: bool | None = Field(default=None, description="Its own reasoning is on unless told otherwise.")
    leave_out: tuple[Sampling, ...] = Field(default=(), description="Parameters it does not take.")


class TeacherEndpoint(BaseModel):
    """Where a teacher is reached, and as what."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str = Field(default="", description="The name runs use for it.")
    model: str = Field(description="A LiteLLM model id.")
    api_base: str = Field(default="", description="The endpoint's address, when it is not the provider's own.")
    api_key_env: str = Field(
        default="",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="The name of the environment variable that holds the key.",
    )
    usd_per_mtok: tuple[float, float] | None = Field(
        default=None, description="Price of a million input and output tokens."
    )
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="How long one answer may take.")

    overrides: ModelOverrides = Field(
        default_factory=ModelOverrides, description="What `models` in the configuration says of its model."
    )

    @property
    def is_host(self) -> bool:
        """The calling agent answers, over the tools; there is no address, no key and no price."""
        return self.model == HOST_TEACHER

    @property
    def is_mlx(self) -> bool:
        """A worker keeps the model itself; there is no address, no key and no price."""
        return self.model.startswith(MLX_TEACHER)

    @property
    def mlx_model(self) -> str:
        """Where that model is: a hub id, or a folder."""
        return self.model.removeprefix(MLX_TEACHER)

    @field_validator("api_base")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if value and not re.match(r"https?://[^/\s@]+(/[^\s?#]*)?\Z", value):
            msg = "give http(s)://host[:port][/path], without user name, query or fragment"
            raise ValueError(msg)
        return value.rstrip("/")


class BudgetSettings(BaseModel):
    """Ceilings that arguments can lower and never raise."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    usd_per_run: float = Field(default=20.0, ge=0)
    usd_per_day: float = Field(default=50.0, ge=0)
    ask_above_usd: float | None = Field(
        default=None, ge=0, description="A stage that may cost more is started on the user's word alone."
    )
    calls_per_run: int | None = Field(default=None, ge=1)
    calls_per_day: int | None = Field(default=None, ge=1)
    tokens_per_run: int | None = Field(default=None, ge=1000)
    tokens_per_day: int | None = Field(default=None, ge=1000)


class Settings(BaseModel):
    """Everything the server is configured with."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    home: Path
    teachers: dict[str, TeacherEndpoint] = {}
    models: dict[str, ModelOverrides] = Field(
        {}, description="Prices, retirement dates and abilities by model id, over the data that came with the server."
    )
    default_teacher: str = DEFAULT_TEACHER
    default_student: str = DEFAULT_STUDENT
    allowed_paths: list[Path] = Field(
        [], description="Directories from which seed files and local students may be read."
    )
    allowed_students: list[str] = Field(
        [], description="Students of the hub that may be used, as org/name or org; empty is any."
    )
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    prompts: dict[PromptName, Path] = Field(
        {}, description="Markdown files that replace the package's prompts in new runs."
    )
    trackers: list[TrackerName] = Field([], description="Experiment trackers that are told of each training.")
    device: Literal["auto", "metal", "cuda", "cpu"] = Field(
        default="auto",
        description="Where students compute; auto is the first of Metal, CUDA and the CPU that is there.",
    )
    hostfile: Path | None = Field(default=None, description="mlx.launch's: trainings run on all machines in it.")
    pass_environment: list[str] = Field(
        [], description="Further variables for the teacher's worker, such as HTTPS_PROXY."
    )
    origins: dict[str, Origin] = Field({}, description="Of every value that was given, by its dotted name.")

    @field_validator("teachers")
    @classmethod
    def _host_is_taken(cls, value: dict[str, TeacherEndpoint]) -> dict[str, TeacherEndpoint]:
        if HOST_TEACHER in value:
            msg = f"{HOST_TEACHER} is the calling agent; give the endpoint another name"
            raise ValueError(msg)
        return value

    def endpoint(self, teacher: str) -> TeacherEndpoint:
        """The endpoint behind a teacher's name: a configured one, a LiteLLM id at its provider's own address, or the host.

        Raises:
            UserInputError: It is neither.
        """
        if teacher == HOST_TEACHER:
            return TeacherEndpoint(name=HOST_TEACHER, model=HOST_TEACHER, usd_per_mtok=(0.0, 0.0))
        if configured := self.teachers.get(teacher):
            return self._as_known(configured.model_copy(update={"name": teacher}))
        if teacher.startswith(MLX_TEACHER):
            return self._as_known(TeacherEndpoint(name=teacher, model=teacher))
        if not _TEACHER_ID.match(teacher) or "://" in teacher or ".." in teacher or teacher.count("//"):
            names = ", ".join(sorted(self.teachers)) or "none are configured"
            raise UserInputError(
                "That is not a teacher.",
                next_step=f"Give a LiteLLM model id such as '{DEFAULT_TEACHER}', the name of a configured endpoint ({names}), or '{HOST_TEACHER}' to answer yourself.",
            )
        return self._as_known(TeacherEndpoint(name=teacher, model=teacher))

    def _as_known(self, endpoint: TeacherEndpoint) -> TeacherEndpoint:
        """An endpoint with what is said of its model. What is said of the endpoint itself comes first."""
        own = endpoint.overrides
        known = own if own.model_fields_set else self.models.get(endpoint.model, own)
        prices = (0.0, 0.0) if endpoint.is_mlx else endpoint.usd_per_mtok or known.usd_per_mtok
        return endpoint.model_copy(update={"overrides": known, "usd_per_mtok": prices})

    def origin(self, name: str) -> Origin:
        """Where the value of a dotted name, such as ``budget.usd_per_run``, is from."""
        return self.origins.get(name, "default")

    def readable_dirs(self) -> list[Path]:
        """Directories a caller may name files in, resolved."""
        return [Path(os.path.realpath(path.expanduser())) for path in self.allowed_paths]


_ACCEPTED = sorted(Settings.model_fields.keys() - {"home", "origins"})

ON_THE_COMMAND_LINE = "NANODISTILL_SET"
"""The variable in which a command hands what ``--set`` gave, as JSON, to the servers that it starts."""

DEVICE_VARIABLE = "NANODISTILL_DEVICE"
"""The variable in which a server hands ``device`` to the processes in which students compute."""

_LISTS = ("allowed_paths", "pass_environment", "allowed_students", "trackers")
_NOT_SETTINGS = ("home", "config", "http_token", "fault", "set")


def load_settings(
    home: Path, overrides: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
) -> Settings:
    """Read the configuration.

    Args:
        home: The data directory; its ``config.yaml`` is read unless NANODISTILL_CONFIG names another file.
        overrides: Values from the command line.
        env: The environment; this process's by default.

    Raises:
        ConfigurationError: The file is missing although named, is not YAML, or holds a value that is not accepted.
    """
    env = os.environ if env is None else env
    from_file = (
        _read_file(Path(env["NANODISTILL_CONFIG"]).expanduser(), must_exist=True)
        if env.get("NANODISTILL_CONFIG")
        else (_read_file(home / "config.yaml", must_exist=False))
    )
    layers: list[tuple[Origin, Mapping[str, Any]]] = [
        ("file", from_file),
        ("environment", _from_environment(env)),
        ("command line", json.loads(env[ON_THE_COMMAND_LINE]) if env.get(ON_THE_COMMAND_LINE) else {}),
        ("command line", overrides or {}),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for origin, layer in layers:
        values = _over(values, layer)
        origins |= dict.fromkeys(_names(layer), origin)
    if unknown := sorted(str(key) for key in values.keys() - set(_ACCEPTED)):
        raise ConfigurationError(
            f"The server's configuration has keys it does not know: {', '.join(unknown)[:200]}.",
            next_step=f"Accepted keys: {', '.join(_ACCEPTED)}. Correct the file and restart the server.",
        )
    try:
        return Settings.model_validate({**values, "home": home, "origins": origins})
    except ValidationError as error:
        raise ConfigurationError(
            f"The server's configuration is not accepted: {refused_values(error)}.",
            next_step=f"Accepted keys: {', '.join(_ACCEPTED)}. Correct the file or the variable and restart the server.",
        ) from None


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        if not must_exist:
            return {}
        raise ConfigurationError(
            "NANODISTILL_CONFIG names a file that is not there.",
            next_step="Correct the variable in the server's configuration.",
        ) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            "The configuration file cannot be read as text.", next_step="Make it a UTF-8 YAML file."
        ) from None
    import yaml  # noqa: PLC0415 - most servers have no file, and a client waits for the start

    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ConfigurationError("The configuration file is nested too deeply.", next_step="Flatten it.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ConfigurationError(
            f"The configuration file is not YAML{where}.", next_step="Correct it and restart the server."
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(
            "The configuration file is not a mapping of names to values.", next_step="See docs/configuration.md."
        )
    return value  # pyright: ignore[reportUnknownVariableType]


def _over(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others; of a mapping within, only what is given anew changes."""
    merged = dict(before)
    for name, value in after.items():
        old = merged.get(name)
        nested = isinstance(old, dict) and isinstance(value, dict)
        merged[name] = _over(cast("dict[str, Any]", old), cast("dict[str, Any]", value)) if nested else value
    return merged


def _names(layer: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted names of the values in a layer."""
    for name, value in layer.items():
        if isinstance(value, dict):
            yield from _names(cast("dict[str, Any]", value), f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """NANODISTILL_DEFAULT_TEACHER, NANODISTILL_BUDGET__USD_PER_RUN, NANODISTILL_TEACHERS__LOCAL__API_BASE and so on."""
    found: dict[str, Any] = {}
    for name, value in env.items():
        key = name.removeprefix("NANODISTILL_").lower()
        if not name.startswith("NANODISTILL_") or key in _NOT_SETTINGS:
            continue
        if not _put(found, key.split("__"), value):
            raise ConfigurationError(
                f"The variable {name} is not one this server knows.",
                next_step="Known: NANODISTILL_HOME, _CONFIG, _ALLOWED_PATHS, _ALLOWED_STUDENTS, _PASS_ENVIRONMENT, _DEFAULT_TEACHER, _DEFAULT_STUDENT, _DEVICE, _HOSTFILE, _TRACKERS, "
                "_BUDGET__USD_PER_RUN, _BUDGET__USD_PER_DAY, _BUDGET__ASK_ABOVE_USD, _HTTP_TOKEN, the same for CALLS and TOKENS, "
                "_PROMPTS__COT and the like, and _TEACHERS__NAME__API_BASE and the like.",
            )
    return found


def from_words(words: list[str]) -> dict[str, Any]:
    """Values as they are given on the command line: ``budget.usd_per_run=2``.

    Raises:
        UserInputError: One is not of that form, or names what there is not.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not _put(found, name.split("."), value):
            raise UserInputError(
                f"--set {name[:60]} is not a name of the configuration with its value.",
                next_step="Give --set NAME=VALUE, with a name that `nanodistill-mcp config show` lists, such as budget.usd_per_run=2.",
            )
    return found


def given_to_servers(environment: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """An environment in which a server takes these values for given on its command line, over all that it finds elsewhere."""
    before: dict[str, Any] = json.loads(environment.get(ON_THE_COMMAND_LINE) or "{}")
    return {**environment, ON_THE_COMMAND_LINE: json.dumps(_over(before, values))}


def _put(found: dict[str, Any], parts: list[str], text: str) -> bool:
    """Put a value that came as text at its place; lists are parted as in PATH, or are JSON. False where no such place is."""
    match parts:
        case [name] if name in _LISTS:
            value = _list_or_text(text)
            found[name] = [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        case ["default_teacher" | "default_student" | "hostfile" | "device" as name]:
            found[name] = text
        case ["budget" | "prompts" as group, name]:
            found.setdefault(group, {})[name] = text
        case ["teachers", endpoint, name] if name != "overrides":
            found.setdefault("teachers", {}).setdefault(endpoint, {})[name] = _list_or_text(text)
        case ["teachers", endpoint, "overrides", name]:
            of_endpoint = found.setdefault("teachers", {}).setdefault(endpoint, {})
            of_endpoint.setdefault("overrides", {})[name] = _list_or_text(text)
        case _:
            return False
    return True


def _list_or_text(text: str) -> list[Any] | str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return cast("list[Any]", value) if isinstance(value, list) else text
