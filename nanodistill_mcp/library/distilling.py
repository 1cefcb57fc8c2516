"""``distill(...)``: from examples to a model in one call, over the same stages and the same run folder as the tools."""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from mcp import Client, StdioServerParameters
from pydantic import BaseModel, ValidationError

from nanodistill_mcp.errors import RunStateError, UserInputError, refused_values
from nanodistill_mcp.library.channel import VARIABLE, channel_file
from nanodistill_mcp.library.configuration import DistillationConfig
from nanodistill_mcp.library.driving import Driver, EndedError, RefusedError, StoppedError, leaves
from nanodistill_mcp.library.failures import failure
from nanodistill_mcp.runs.paths import RunPaths, data_home
from nanodistill_mcp.runs.records import PIPELINE, Exit
from nanodistill_mcp.runs.store import Run, read_record
from nanodistill_mcp.settings import PromptName, given_to_servers, load_settings

_IN_A_DOTENV = re.compile(r"[A-Z0-9_]+_(?:API_)?KEY\Z|HF_TOKEN\Z")
"""What is taken of a ``.env``: keys. A file that came with somebody's examples must not say where they are sent."""


@dataclass(frozen=True)
class DistillationResult:
    """What came of it."""

    run_id: str
    folder: Path
    """Everything of the run: traces, dataset, checkpoints, report, model."""
    model_path: Path
    """The fused student, which ``mlx_lm.load`` takes; without an export the adapter, for its ``adapter_path``."""
    gguf_path: Path | None
    """For Ollama and llama.cpp; None when it was not asked for."""
    report_path: Path
    decision: str
    """ship, iterate, stop or too_few, by the held-out examples; empty when there were none."""
    cost_usd: float
    config: DistillationConfig
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    """By stage, what it found; and ``accuracy``, ``base_accuracy`` and ``teacher_accuracy`` of the held-out examples."""


def distill(
    name: str,
    seed: list[dict[str, Any]] | str | Path | None = None,
    instruction: str = "",
    teacher: str = "",
    student: str = "",
    augment_factor: int = 50,
    output_dir: str | Path | None = "outputs",
    response_model: type[BaseModel] | None = None,
    export_gguf: bool = True,  # noqa: FBT001, FBT002 - as above
    *,
    home: Path | None = None,
    env_file: Path | None = Path(".env"),
    anyway: bool = False,
    quiet: bool = False,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    **kwargs: Any,
) -> DistillationResult:
    """Turn examples into a small model: solved by a teacher, generalized, verified, trained, proved on held-out ones, exported.

    Called again with the same name it goes on where it stopped and pays for nothing twice. Leaving it with Ctrl-C ends
    nothing: the job that runs goes on by itself.

    Args:
        name: The run's id.
        seed: Examples {input, output}, or a .json, .jsonl or .csv file of them; None is the one data file in the directory that
            ``SM_CHANNEL_TRAIN`` names. Ten are a good start.
        instruction: What the student is to do with an input; empty where the examples' own column says it.
        teacher: A LiteLLM model id or a configured endpoint; the configured default when empty.
        student: A hub id or a local folder; the configured default when empty.
        augment_factor: Training examples wanted per seed.
        output_dir: Where a link to the run's folder is made under its name; None makes none.
        response_model: A Pydantic class whose JSON form every output keeps.
        export_gguf: Whether to fuse the student and write model.gguf and a Modelfile.
        home: The data directory; the usual one when None.
        env_file: A file of keys (``NAME=value`` lines), looked at where it is; variables that are set come first. None reads none.
        anyway: Go on where the teacher disagrees with so many examples that it would say to stop.
        quiet: Print nothing.
        on_progress: Is told a stage's line of get_status now and then.
        **kwargs: Further fields of :class:`DistillationConfig`, and any option of docs/options.md.

    Returns:
        Where everything lies, how good it is and what it cost.

    Raises:
        UserInputError: An argument is not accepted.
        TeacherAPIError: The teacher's provider stopped a stage.
        AmplificationError: New examples could not be made.
        TrainingError: The student could not be trained.
        NanoDistillError: Anything else that is anticipated. Each has ``what`` and ``next_step``.
    """
    examples = channel_file() if seed is None else Path(seed) if isinstance(seed, str) else seed
    if examples is None:
        raise UserInputError("There are no examples.", next_step=f"Give seed, or set {VARIABLE} to their directory.")
    config = configured(
        name=name,
        seed=examples,
        instruction=instruction,
        teacher=teacher,
        student=student,
        augment_factor=augment_factor,
        output_dir=None if output_dir is None else Path(output_dir),
        response_model=response_model,
        export_gguf=export_gguf,
        **kwargs,
    )
    folder = (home or data_home()).absolute()
    if config.output_dir:
        check_link(config.output_dir / name, folder)
    with tempfile.TemporaryDirectory(prefix="nanodistill-") as scratch:
        environment = _environment(config, folder, env_file, Path(scratch))
        server = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=environment)

        async def drive() -> dict[str, Any]:
            async with Client(server) as client:
                driver = Driver(client, name, quiet=quiet, follows=on_progress)
                return await _carried_out(driver, config, anyway=anyway)

        try:
            with start_blocking_portal() as portal:  # a notebook's own loop runs in this thread
                found = portal.call(drive)
        except (RefusedError, EndedError, StoppedError) as error:
            raise _failure(error, folder, name) from None
        except BaseExceptionGroup as group:
            raise _failure(leaves(group)[0], folder, name) from None
    if config.output_dir:
        _link(config.output_dir / name, Path(found["folder"]))
    return _result(config, found)


def configured(**given: Any) -> DistillationConfig:
    """A configuration.

    Raises:
        UserInputError: A value is of another kind than it should be.
    """
    try:
        return DistillationConfig(**given)
    except ValidationError as error:
        raise UserInputError(
            f"The configuration is not accepted: {refused_values(error)}.",
            next_step="docs/python.md has every parameter.",
        ) from None


async def _carried_out(driver: Driver, config: DistillationConfig, *, anyway: bool) -> dict[str, Any]:
    found = await driver.create(config.arguments())
    given = {"export_gguf": {"quantization": config.quantization}}
    stages = [stage for stage in PIPELINE if config.export_gguf or stage != "export_gguf"]
    results = await driver.carry_out(stages, given, anyway=anyway)
    status = await driver.finish()
    return {"run_id": found["run_id"], "folder": status["folder"], "spend": status["spend"], "results": results}


def _result(config: DistillationConfig, found: dict[str, Any]) -> DistillationResult:
    folder, results = Path(found["folder"]), found["results"]
    paths, evaluation = RunPaths(folder), results["evaluate"]
    held_out: dict[str, Any] = evaluation.get("held_out") or {}
    scores = {
        name: held_out[model]["accuracy"]
        for name, model in (("accuracy", "student"), ("base_accuracy", "base"), ("teacher_accuracy", "teacher"))
        if model in held_out
    }
    return DistillationResult(
        run_id=found["run_id"],
        folder=folder,
        model_path=paths.model if config.export_gguf else paths.adapters,
        gguf_path=paths.gguf if config.export_gguf else None,
        report_path=folder / "report.md",
        decision=evaluation.get("decision", ""),
        cost_usd=found["spend"]["cost_usd"],
        config=config,
        metrics={**scores, **results},
    )


def _environment(config: DistillationConfig, home: Path, env_file: Path | None, scratch: Path) -> dict[str, str]:
    """What the server is started with: this process's variables, keys of a ``.env`` where they are not set, and its folders."""
    environment = {**_keys_of(env_file), **os.environ, "NANODISTILL_HOME": str(home)}
    settings = load_settings(home)
    named = [config.seed] if isinstance(config.seed, Path) else []
    named += [Path(path) for path in (config.run_options().get(key) for key in ("test_path", "inputs_path")) if path]
    models = (config.student, config.run_options().get("local_teacher") or "")
    named += [Path(model).expanduser() for model in models if model.startswith(("/", "~", "."))]
    if named:  # whoever calls names them
        allowed = [*settings.allowed_paths, *(path.expanduser().absolute().parent for path in named)]
        environment = given_to_servers(environment, {"allowed_paths": list(map(str, allowed))})
    if config.prompts:
        environment["NANODISTILL_CONFIG"] = str(_with_prompts(config.prompts, home, scratch))
    return environment


def _keys_of(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 - few have such a file

    found = dotenv_values(env_file, interpolate=False)
    return {name: value for name, value in found.items() if value and _IN_A_DOTENV.match(name)}


def _with_prompts(prompts: Mapping[PromptName, str | Path], home: Path, scratch: Path) -> Path:
    """The server's configuration with other prompts in it."""
    import yaml  # noqa: PLC0415 - few bring their own prompts

    from nanodistill_mcp.teacher.wording import read_wordings  # noqa: PLC0415 - builds the shapes of all answers

    path = Path(os.environ.get("NANODISTILL_CONFIG") or home / "config.yaml").expanduser()
    before: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig")) if path.is_file() else None
    files: dict[PromptName, str] = {}
    for name, prompt in prompts.items():
        files[name] = str(prompt)
        if isinstance(prompt, str):
            file = scratch / f"{name}.md"
            file.write_text(prompt, encoding="utf-8")
            files[name] = str(file)
    made = scratch / "config.yaml"
    read_wordings({name: Path(file) for name, file in files.items()})
    theirs: dict[str, Any] = before or {}
    merged = {**theirs, "prompts": {**theirs.get("prompts", {}), **files}}
    made.write_text(yaml.safe_dump(merged), encoding="utf-8")
    return made


def _failure(error: BaseException, home: Path, name: str) -> BaseException:
    """What went wrong, as one of our errors; a defect stays what it is."""
    if isinstance(error, RefusedError):
        return UserInputError(str(error), next_step="")
    if isinstance(error, StoppedError):
        return RunStateError(str(error), next_step="To go on all the same, give anyway=True.")
    if not isinstance(error, EndedError):
        return error
    jobs = Run(RunPaths(home / "runs" / name)).paths.job_list()
    ended = read_record(jobs[-1].exit, Exit) if jobs else None
    if ended is None or not ended.what:
        return RunStateError(
            str(error), next_step="Call distill again with the same name: it goes on where this stopped."
        )
    return failure(error.stage, ended.error_kind, ended.what, ended.next_step)


def check_link(link: Path, home: Path) -> None:
    """Refuse to put a link where somebody's own files are.

    Raises:
        UserInputError: Something else stands there.
    """
    if link.is_symlink() and link.resolve().is_relative_to(home.resolve()):
        return
    if link.exists() or link.is_symlink():
        raise UserInputError(
            f"{link} is there already, and no run of this package.",
            next_step="Give another output_dir or name, or None for no link; a folder that NanoDistill made is taken over with "
            "nanodistill-mcp adopt.",
        )


def _link(link: Path, folder: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(folder, target_is_directory=True)
