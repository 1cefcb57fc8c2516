"""Response schemas: the caller's JSON Schema for an output, checked without fetching anything and within a time."""

import json
import math
import re
import time
from collections.abc import Callable
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.patience import OutOfPatienceError, computing_at_most
from nanodistill_mcp.runs.records import Seed

_ONE_CHECK_S = 1.0
_ALL_CHECKS_S = 5.0
_ONE_OF_EACH_KIND: tuple[Any, ...] = (None, True, 0, "", [], [""], {}, {"": ""})


def check_schema(schema: dict[str, Any], seeds: list[Seed]) -> None:
    """Check that a response schema is one, and that every given output keeps it. The teacher's are checked when it answers.

    Raises:
        UserInputError: Names the seed whose output does not.
    """
    keeps = schema_check(schema, total_s=_ALL_CHECKS_S)
    for number, seed in enumerate(seeds, 1):
        if seed.labelled and not keeps(seed.output):
            raise UserInputError(
                f"The output of example {number} does not keep response_schema.",
                next_step="Correct the example or the schema, then call again.",
            )


def schema_check(schema: dict[str, Any], *, total_s: float = math.inf) -> Callable[[str], bool]:
    """A function that says whether an output keeps a response schema; with an empty one, every output does.

    An output that takes longer than a second to check does not keep it: a pattern can be written so that it never ends.

    Args:
        schema: The response schema.
        total_s: How long all checks together may compute.

    Raises:
        UserInputError: The schema is not a JSON Schema, or it names another document; the function: its checks take too long.
    """
    if not schema:
        return lambda _: True
    import jsonschema  # noqa: PLC0415 - only for runs that have a schema
    from referencing import Registry  # noqa: PLC0415 - as above
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - as above

    # A registry of its own: the library's would fetch whatever address or file a $ref names.
    validator = jsonschema.Draft202012Validator(schema, registry=Registry())  # pyright: ignore[reportUnknownArgumentType]
    try:
        with computing_at_most(_ONE_CHECK_S):
            jsonschema.Draft202012Validator.check_schema(schema)
            for value in _ONE_OF_EACH_KIND:
                validator.is_valid(value)  # pyright: ignore[reportUnknownMemberType] - typed in part
    except Unresolvable:
        raise UserInputError(
            "response_schema names another document or a part that is not there.",
            next_step="Put what a $ref names under $defs of the schema itself; nothing is fetched.",
        ) from None
    except (jsonschema.SchemaError, re.error, RecursionError, OutOfPatienceError, ValueError):
        raise UserInputError(
            "response_schema is not a JSON Schema.",
            next_step="Give a JSON Schema (draft 2020-12) for the output, or leave it out.",
        ) from None
    left_s = total_s

    def keeps(output: str) -> bool:
        nonlocal left_s
        began_s = time.process_time()
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            value = output
        try:
            with computing_at_most(_ONE_CHECK_S):
                return validator.is_valid(value)  # pyright: ignore[reportUnknownMemberType] - typed in part
        except (Unresolvable, re.error, RecursionError, OutOfPatienceError):
            return False
        finally:
            left_s -= time.process_time() - began_s
            if left_s < 0:
                raise UserInputError(
                    "The examples take too long to be held against response_schema.",
                    next_step="Simplify its patterns, or leave it out.",
                )

    return keeps
