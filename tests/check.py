"""Everything that must hold before a change goes in, in one command: ``python tests/check.py``.

Formatting, lint, types, the order of imports, then the tests, which also build the wheel and look into it. CI runs the
same. All checks run even when one fails; further arguments go to pytest.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CHECKS: dict[str, list[str]] = {
    "format": ["-m", "ruff", "format", "--check"],
    "lint": ["-m", "ruff", "check", "--quiet"],
    "imports": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}
# The interpreter is named because the configuration points at .venv, which is not always the one in use.
TYPES = ["-m", "pyright", "--pythonpath", sys.executable]
TYPES_S = 600
# Most tests wait for processes they started, so five keep two cores busy. Whoever has nothing left takes from the others.
TESTS = ["-m", "pytest", "-n", "5", "--dist", "worksteal"]


def main() -> int:
    """Run the checks; the exit code is 0 when all of them pass."""
    began_s = time.monotonic()
    failed = [name for name, arguments in CHECKS.items() if not _passes(name, arguments)]
    with tempfile.TemporaryFile() as output:
        types = subprocess.Popen([sys.executable, *TYPES], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            if not _passes("tests", [*TESTS, *sys.argv[1:]]):
                failed.append("tests")
            if types.wait(TYPES_S) != 0:
                failed.append("types")
        finally:
            types.kill()
        output.seek(0)
        print("check: types, looked at beside the tests", output.read().decode(errors="replace"), sep="\n")
    ended = f"failed: {', '.join(failed)}" if failed else "passed"
    print(f"check: {ended}, in {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


def _passes(name: str, arguments: list[str]) -> bool:
    print(f"check: {name}", flush=True)
    began_s = time.monotonic()
    code = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode
    print(f"check: {name} {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began_s:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
