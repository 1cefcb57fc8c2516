"""What all runs of a user may spend in a day is one number, whoever spends it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.teacher.ledger import DayLedger

SPENDER = """\
import sys
from pathlib import Path
from nanodistill_mcp.teacher.ledger import DayLedger
ledger = DayLedger(Path(sys.argv[1]), 1.0)
spent = 0
for _ in range(200):
    if ledger.reserve(0.02):
        ledger.settle(0.02, 0.01)
        spent += 1
print(spent)
"""


def _total(directory: Path) -> float:
    (day,) = directory.iterdir()
    return sum(json.loads(line)["usd"] for line in day.read_text(encoding="utf-8").splitlines())


def test_many_workers_spend_exactly_up_to_the_ceiling(tmp_path: Path) -> None:
    """Each client starts its own server: a ceiling that each keeps alone is no ceiling."""
    spenders = [
        subprocess.Popen([sys.executable, "-c", SPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    spent = [int(spender.communicate(timeout=60)[0]) for spender in spenders]

    assert sum(spent) * 0.01 == pytest.approx(_total(tmp_path))
    assert 0.97 <= _total(tmp_path) <= 1.0


def test_a_reservation_counts_until_it_is_settled(tmp_path: Path) -> None:
    """A call in flight may cost its worst case."""
    ledger, other = DayLedger(tmp_path, 1.0), DayLedger(tmp_path, 1.0)

    assert ledger.reserve(0.9)
    assert not other.reserve(0.2)
    ledger.settle(0.9, 0.1)
    assert other.reserve(0.2)
    assert other.left_usd == pytest.approx(0.7)


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    """A death in mid-line leaves half a line; anything else was done by hand."""
    ledger = DayLedger(tmp_path, 1.0)
    assert ledger.reserve(0.5)
    (day,) = tmp_path.iterdir()
    with day.open("ab") as stream:
        stream.write(b'{"usd": 0.')
    assert DayLedger(tmp_path, 1.0).left_usd == pytest.approx(0.5)
    with day.open("ab") as stream:
        stream.write(b'{"usd": "much"}\n')
    with pytest.raises(DamagedRunError, match="is damaged"):
        DayLedger(tmp_path, 1.0).reserve(0.1)
