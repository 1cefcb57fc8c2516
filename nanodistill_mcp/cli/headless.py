"""``nanodistill-mcp run SPEC``: a whole run without an agent. A client of the server, as every other one.

The file holds what create_run takes, by name, and under ``stages`` what single stages are given. Called again with the same
file it goes on where it stopped, and pays for nothing twice.
"""

import os
import sys
from pathlib import Path
from typing import Any, cast

import anyio
from mcp import Client, StdioServerParameters

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.library.channel import channel_file
from nanodistill_mcp.library.driving import Driver, EndedError, RefusedError, StoppedError, leaves
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.settings import HOST_TEACHER, given_to_servers, load_settings

_PATHS = ("seed_path", "test_path", "inputs_path")


def run_spec(home: Path, spec_path: Path, *, until: str, anyway: bool, train_file: str = "") -> int:
    """Carry a run out from its file. The exit code is 0 when every stage wanted is done, 1 when one is not.

    Args:
        home: The data directory.
        spec_path: The file.
        until: The last stage wanted; all when empty.
        anyway: Go on although the teacher cannot do the task well.
        train_file: The examples, where the file names none; else those of ``SM_CHANNEL_TRAIN``.

    Raises:
        UserInputError: The file is not one, or names what there is not.
    """
    spec = read_spec(spec_path)
    named = add_examples(spec, train_file)
    given: dict[str, dict[str, Any]] = spec.pop("stages", {})
    stages = PIPELINE[: PIPELINE.index(until) + 1] if until in PIPELINE else PIPELINE
    environment = {**os.environ, "NANODISTILL_HOME": str(home)}
    if any(name in spec or name in spec.get("options", {}) for name in _PATHS):  # whoever gives the file names them
        allowed = [*load_settings(home).allowed_paths, spec_path.parent.absolute(), *named]
        environment = given_to_servers(environment, {"allowed_paths": list(map(str, allowed))})
    server = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=environment)

    async def drive() -> None:
        async with Client(server) as client:
            driver = Driver(client, str(spec.get("name", "")))
            await driver.create(spec)
            await driver.carry_out(stages, given, anyway=anyway)
            await driver.finish()

    code = 0
    try:
        anyio.run(drive)
    except* StoppedError as stopped:
        code = 1
        print(*leaves(stopped), "To go on: --anyway", sep="\n")
    except* (RefusedError, EndedError) as failed:
        code = 1
        print(*leaves(failed), sep="\n", file=sys.stderr)
    except* KeyboardInterrupt:
        code = 130
        name = spec.get("name", "")
        print(f"\nYou left; a job that runs goes on by itself. To follow it: nanodistill-mcp run {spec_path}")
        print(f"To end it: nanodistill-mcp control {name} cancel")
    return code


def add_examples(spec: dict[str, Any], train_file: str) -> list[Path]:
    """Put the examples' file into a spec that names none; the folders that may be read for it.

    Raises:
        UserInputError: The spec names examples and a file of others is given too, or the channel's file is not one.
    """
    spec.setdefault("instruction", "")  # the examples may carry one
    if spec.get("seed") or spec.get("seed_path"):
        if train_file:
            raise UserInputError(
                "The file of the run names examples, and --train-file names others.",
                next_step="Take seed and seed_path out of the file, or leave --train-file out.",
            )
        return []
    found = Path(train_file).expanduser().absolute() if train_file else channel_file()
    if found is None:
        return []
    spec["seed_path"] = str(found)
    return [found.parent]


def read_spec(path: Path) -> dict[str, Any]:
    """The arguments of create_run in a YAML or JSON file, with the paths in it made absolute.

    Raises:
        UserInputError: It is not such a file.
    """
    import yaml

    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise UserInputError(
            "The file cannot be read as YAML.", next_step="See docs/command-line.md for one."
        ) from None
    if not isinstance(value, dict):
        raise UserInputError("The file holds no names and values.", next_step="See docs/command-line.md for one.")
    spec: dict[str, Any] = {str(name): given for name, given in cast("dict[Any, Any]", value).items()}
    stages: Any = spec.get("stages", {})
    if not isinstance(stages, dict) or not all(
        isinstance(one, dict) for one in cast("dict[Any, Any]", stages).values()
    ):
        raise UserInputError("stages is not a mapping of stages to arguments.", next_step="See docs/command-line.md.")
    if unknown := [str(stage) for stage in cast("dict[Any, Any]", stages) if stage not in PIPELINE]:
        raise UserInputError(
            f"There is no stage {unknown[0][:40]!r}.", next_step=f"Stages, in their order: {', '.join(PIPELINE)}."
        )
    if spec.get("teacher") == HOST_TEACHER:
        raise UserInputError(
            "teacher: host means the agent that calls, and here there is none.",
            next_step="Name a LiteLLM model or an endpoint of the configuration, or let an agent do this run.",
        )
    options: Any = spec.get("options", {})
    for holder in (spec, options):
        for name in _PATHS:
            if isinstance(holder, dict) and isinstance(given := cast("dict[str, Any]", holder).get(name), str):
                holder[name] = str(path.parent.absolute() / Path(given).expanduser())
    return spec
