"""The versions of a run's policy: which there are, what a user's own one is made of, and how two differ.

Version 0 is what a clone brought along. A version is never changed once it is written: restoring one writes the next.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanodistill_mcp.errors import UserInputError, refused_values
from nanodistill_mcp.pipeline import answers
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Seed, TaskPolicy
from nanodistill_mcp.runs.store import Run, read_record

ABOUT_THE_VERSION = frozenset({"version", "source", "restored_from"})
"""Fields that say where a policy comes from, and nothing about the task: the teacher never reads them."""

FIELDS = tuple(name for name in TaskPolicy.model_fields if name not in ABOUT_THE_VERSION)

_REQUIRED = {name for name in FIELDS if TaskPolicy.model_fields[name].is_required()}
_NAME = re.compile(r"policy\.v(\d{1,6})\.json\Z")
_CHARS_SHOWN = 300


def versions_of(run: Run) -> list[int]:
    """The numbers of the versions there are, oldest first."""
    if not run.paths.policies.is_dir():
        return []
    found = (_NAME.match(name) for name in os.listdir(run.paths.policies))
    return sorted(int(match[1]) for match in found if match)


def read_version(run: Run, number: int) -> TaskPolicy:
    """One version of the policy.

    Raises:
        UserInputError: There is no such version; names those there are.
    """
    policy = read_record(_path(run.paths, number), TaskPolicy) if number in versions_of(run) else None
    if policy is None:
        there_are = ", ".join(map(str, versions_of(run)))
        raise UserInputError(
            f"There is no version {number} of this run's policy.",
            next_step=f"Versions: {there_are}." if there_are else f"Call extract_policy(run_id={run.run_id!r}) first.",
        )
    return policy


def carried_policy(run: Run) -> TaskPolicy | None:
    """The policy that a clone brought along, if it did."""
    return read_version(run, 0) if 0 in versions_of(run) else None


def numbered(run: Run, policy: TaskPolicy) -> TaskPolicy:
    """A policy with the number it is to be written under: the next one, or that of an equal one after a restart."""
    there_are, current = versions_of(run), run.policy()
    number = max([*there_are, current.version if current else 0, 0]) + 1
    if current is None:
        equal = (known for known in there_are if known and content(read_version(run, known)) == content(policy))
        number = next(equal, number)
    return policy.model_copy(update={"version": number})


def content(policy: TaskPolicy) -> dict[str, Any]:
    """What a policy says of the task."""
    return policy.model_dump(exclude=set(ABOUT_THE_VERSION))


def given_policy(run: Run, given: dict[str, Any]) -> TaskPolicy:
    """The policy that a caller's fields make: put over the version they name, else over the current one.

    ``{"version": 1}`` alone restores version 1. All fields together replace the policy.

    Raises:
        UserInputError: A field is unknown or not accepted, some are missing and there is nothing to put them over, or the
            checker cannot judge the seeds.
    """
    fields = {name: value for name, value in given.items() if name not in ABOUT_THE_VERSION}
    if unknown := [name for name in fields if name not in FIELDS]:
        near = difflib.get_close_matches(unknown[0], FIELDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserInputError(f"The policy has a field that is not one of its fields.{hint}", next_step=_ACCEPTED)
    before = None if set(fields) >= _REQUIRED else _base(run, given)
    if before and "checker" in fields and fields["checker"] != before.checker and "choices" not in fields:
        fields["choices"] = []
    restored = before.version if before and "version" in given and not fields else -1
    try:
        policy = TaskPolicy.model_validate(
            {**(content(before) if before else {}), **fields, "source": "user", "restored_from": restored}
        )
    except ValidationError as error:
        raise UserInputError(f"The policy is not accepted: {refused_values(error)}.", next_step=_ACCEPTED) from None
    _check_checker(policy, run.seeds())
    return policy


_ACCEPTED = (
    f"Fields: {', '.join(FIELDS)}. Some of them change the current policy, "
    "all of them replace it, and {'version': N} alone restores version N."
)


def _base(run: Run, given: dict[str, Any]) -> TaskPolicy:
    if "version" in given:
        number = given["version"]
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserInputError("The version of a policy is a whole number.", next_step=_ACCEPTED)
        return read_version(run, number)
    current = run.policy()
    if current is None:
        raise UserInputError(
            "There is no policy yet that these fields could change.",
            next_step=f"Give all of {', '.join(FIELDS)}, or call extract_policy(run_id={run.run_id!r}) first.",
        )
    return current


def _check_checker(policy: TaskPolicy, seeds: list[Seed]) -> None:
    """Refuse a checker by which no answer to some seed could ever be right."""
    if policy.checker == "choice" and not policy.choices:
        raise UserInputError(
            "The checker choice needs the list of answers.", next_step="Give choices, or another checker."
        )
    if policy.checker == "regex" and not (policy.pattern and answers.is_pattern(policy.pattern)):
        raise UserInputError(
            "The checker regex needs a pattern that is a regular expression.",
            next_step="Give pattern, which an answer matches as a whole, or another checker.",
        )
    for seed in seeds:
        if seed.output and not answers.fits(policy.checker, policy.choices, seed.output, policy.pattern):
            lacking = "is not among its choices" if policy.checker == "choice" else "has not the form it compares"
            raise UserInputError(
                f"The checker {policy.checker} cannot judge seed {seed.id}: its output {lacking}.",
                next_step="Give a checker that fits every seed: exact, normalized, numeric, choice (with choices), json, regex (with pattern), rouge_l or judge (with rubric).",
            )


def compare_versions(run: Run, one: int, other: int) -> dict[str, Any]:
    """How one version differs from another.

    Raises:
        UserInputError: There is no such version.
    """
    before, after = read_version(run, one), read_version(run, other)
    about = [
        {"version": number, "source": policy.source, "restored_from": policy.restored_from}
        for number, policy in ((one, before), (other, after))
    ]
    return {"from": about[0], "to": about[1], "changes": changes(before, after)}


def changes(before: TaskPolicy, after: TaskPolicy) -> dict[str, Any]:
    """What differs, field by field: of lists what was added and removed, of the others what it was and is."""
    found: dict[str, Any] = {}
    theirs, ours = content(before), content(after)
    for name in FIELDS:
        was, now = theirs[name], ours[name]
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):
            found[name] = _list_change(was, now)  # pyright: ignore[reportUnknownArgumentType]
        else:
            found[name] = {"from": _short(was), "to": _short(now)}
    return found


def _list_change(was: list[Any], now: list[Any]) -> dict[str, list[Any]]:
    added, removed = [item for item in now if item not in was], [item for item in was if item not in now]
    return {"added": added, "removed": removed} if added or removed else {"order": now}


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= _CHARS_SHOWN else f"{value[:_CHARS_SHOWN]}..."


def _path(paths: RunPaths, number: int) -> Path:
    return paths.policies / f"policy.v{number}.json"
