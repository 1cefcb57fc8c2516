"""The examples that the surroundings name where nobody else does: the one data file of a training channel.

SageMaker and what is built after it put the training data into a directory and its name into ``SM_CHANNEL_TRAIN``. Whoever
started this process set that variable, so the file in it may be read.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.texts import clean

VARIABLE = "SM_CHANNEL_TRAIN"
_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv")
_SHOWN = 20


def channel_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """The data file of the training channel; None where no channel is named.

    Raises:
        UserInputError: There is no such directory, or not exactly one data file in it; names what there is.
    """
    named = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise UserInputError(f"{VARIABLE} names no directory.", next_step="Correct it, or name the file of examples.")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    data = [name for name in names if name.lower().endswith(_ENDINGS)]
    if len(data) != 1:
        what = f"{len(data)} data files" if data else "no data file"
        there = ", ".join(map(clean, (data or names)[:_SHOWN])) or "nothing"
        raise UserInputError(
            f"The directory that {VARIABLE} names holds {what}: {there}.",
            next_step=f"Leave one file that ends in {', '.join(_ENDINGS)} there, or name the one to use.",
        )
    return folder / data[0]
