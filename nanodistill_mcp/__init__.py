"""Turn ten examples into a small reasoning model, by talking to the agent you already use.

The folder order is the dependency order; import-linter holds it:

    __main__ · cli · demo · library · server | worker · pipeline · teacher | student | jobs | figures · runs · settings · errors

- ``server`` is what the agent sees and the only package that imports ``mcp``. It answers from the run folder and
  starts jobs; it owns nothing and may be killed at any moment.
- ``worker`` is the entry of a detached job. One stage of a run is one process.
- ``library`` is the path as a Python function, ``distill``: a client of the server, re-exported here.
- ``pipeline`` holds what each stage does to a run: our own reasoning, no outside world.
- ``teacher`` is the paid model (litellm, instructor), ``student`` the small one (mlx, mlx_lm, gguf, llama.cpp),
  ``jobs`` the work that outlives the chat (psutil, subprocess, fcntl), ``figures`` the pictures (matplotlib).
- ``runs`` is the truth on disk: records, paths, files, journal, store.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanodistill_mcp.library import (
        AmplificationError,
        DistillationConfig,
        DistillationResult,
        NanoDistillError,
        TeacherAPIError,
        TrainingError,
        distill,
    )

__version__ = "0.1.0"

__all__ = [
    "AmplificationError",
    "DistillationConfig",
    "DistillationResult",
    "NanoDistillError",
    "TeacherAPIError",
    "TrainingError",
    "distill",
]


def __getattr__(name: str) -> Any:
    # By name and late: the server imports this package too, and must not load its own client.
    if name in __all__:
        return getattr(importlib.import_module("nanodistill_mcp.library"), name)
    raise AttributeError(name)
