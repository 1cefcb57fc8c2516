"""Training on several machines: the operator's host file, and the command that starts a rank on each of them.

The file is that of ``mlx.launch`` (MLX's documentation, "Launching Distributed Programs"): a list of hosts, each with the name
``ssh`` takes and its addresses, or a mapping with ``backend``, ``envs`` and that list.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.student.requests import Recipe

_BACKENDS = ("", "ring", "jaccl", "jaccl-ring", "mpi", "nccl")
_LAUNCH = "from mlx._distributed_utils.launch import main; main()"


@dataclass(frozen=True)
class Machines:
    """A host file that was read."""

    hostfile: Path
    hosts: tuple[str, ...]
    backend: str

    @property
    def ranks(self) -> int:
        """Processes, one for each line of hosts."""
        return len(self.hosts)

    def command(self, student_command: Sequence[str]) -> list[str]:
        """The command line that starts a student process on each host, before the path of its request."""
        return [sys.executable, "-I", "-c", _LAUNCH, "--hostfile", str(self.hostfile), "--", *student_command]

    def check(self, recipe: Recipe) -> None:
        """The batch is one for all machines, so it must be shared evenly: what is planned for one then holds for all.

        Raises:
            ConfigurationError: It cannot be.
        """
        if recipe.batch_size % self.ranks:
            fits = -(-recipe.batch_size // self.ranks) * self.ranks
            raise ConfigurationError(
                f"A batch of {recipe.batch_size} cannot be shared evenly by the {self.ranks} processes of the host file.",
                next_step=f"Call train with options.batch_size={fits}, or take the host file out of the configuration.",
            )


def read_hostfile(path: Path) -> Machines:
    """Read a host file.

    Raises:
        ConfigurationError: It is not one.
    """
    value = _json_of(path)
    backend, hosts = "", value
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        backend, hosts = mapping.get("backend", ""), mapping.get("hosts")
    if not isinstance(hosts, list) or len(cast("list[Any]", hosts)) < 1 or backend not in _BACKENDS:
        raise _not_one("it is a list of hosts, or a mapping with hosts and a backend")
    names: list[str] = []
    for host in cast("list[Any]", hosts):
        named = cast("dict[str, Any]", host).get("ssh") if isinstance(host, dict) else None
        if not isinstance(named, str) or not named or named.startswith("-"):  # ssh would take it for an option
            raise _not_one("each host has a name for ssh")
        if backend in ("", "ring") and not cast("dict[str, Any]", host).get("ips"):
            raise _not_one("the ring needs the addresses (ips) of each host")
        names.append(named)
    return Machines(path, tuple(names), backend)


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise _not_one("it cannot be read as JSON") from None


def _not_one(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The file that `hostfile` of the configuration names is not a host file of mlx.launch: {why}.",
        next_step='Make it like [{"ssh": "mac-1", "ips": ["10.0.0.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2"]}], see docs/training.md.',
    )
