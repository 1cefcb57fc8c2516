"""Runs every proof that docs/migration.md names, the slow ones too: ``python docs/prove_migration.py [options of pytest]``.

Exit code 0 when each row has a proof and each proof passed. One that was skipped, because another program is not here, is
named; it has not failed, and proves nothing.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from tempfile import TemporaryDirectory

PAGE = Path(__file__).with_name("migration.md")
ROOT = PAGE.parents[1]


def proofs() -> list[str]:
    """The proof of each row, in their order.

    Raises:
        SystemExit: A row has none.
    """
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines if not line.startswith("| there |")]
    found = [(promise, re.findall(r"`(tests/[^`]+)`", proof)) for promise, *_, proof in rows]
    if without := [promise for promise, named in found if not named]:
        raise SystemExit(f"Rows without a proof: {'; '.join(without)}")
    return [name for _, named in found for name in named]


def main() -> int:
    """Run them, and say what each row came to."""
    named = proofs()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junit-xml={report}", *sys.argv[1:]]
        code = subprocess.run([*command, *dict.fromkeys(named)], cwd=ROOT, check=False).returncode
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []  # noqa: S314 - of our own making
    skipped = {f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None}
    told = f"{len(named)} promises, {len(cases)} tests, {len(skipped)} of them skipped"
    sys.stdout.write("\n  ".join([told, *sorted(skipped)]) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
