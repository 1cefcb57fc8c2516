"""A person at a terminal: commands as processes, and what they print."""

import os
import subprocess
import sys
from pathlib import Path


def types(home: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``nanodistill-mcp`` with these words, its output piped; bounded."""
    command = [sys.executable, "-m", "nanodistill_mcp", *words]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "NANODISTILL_HOME": str(home), **(env or {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
