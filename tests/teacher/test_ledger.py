"""What all runs of a user may spend in a day is one number, whoever spends it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.teacher.ledger import Caps, DayLedger, Reservation

SPENDER = """\
import sys
from pathlib import Path
from nanodistill_mcp.teacher.ledger import Caps, DayLedger, Reservation
ledger = DayLedger(Path(sys.argv[1]), Caps(usd=1.0))
worst = Reservation(0.0213, 30)
spent = 0
for _ in range(200):
    if ledger.reserve(worst):
        ledger.settle(worst, 0.01, 10)
        spent += 1
print(spent)
"""

HOLDER = """\
import sys
from pathlib import Path
from nanodistill_mcp.teacher.ledger import Caps, DayLedger, Reservation
ledger = DayLedger(Path(sys.argv[1]), Caps(usd=1.0))
print(sum(ledger.reserve(Reservation(0.07, 30)) for _ in range(5)), flush=True)
sys.stdin.read()
"""


def _total(directory: Path, what: str = "usd") -> Fraction:
    (day,) = directory.iterdir()
    lines = day.read_text(encoding="utf-8").splitlines()
    return sum((Fraction(str(json.loads(line)[what])) for line in lines), Fraction())


def test_many_workers_spend_exactly_up_to_the_ceiling(tmp_path: Path) -> None:
    """Each client starts its own server: a ceiling that each keeps alone is no ceiling."""
    spenders = [
        subprocess.Popen([sys.executable, "-c", SPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    spent = [int(spender.communicate(timeout=60)[0]) for spender in spenders]

    assert float(sum(spent) * Fraction("0.01")) == pytest.approx(float(_total(tmp_path)), abs=1e-9)
    assert 0.97 <= _total(tmp_path) <= 1
    assert _total(tmp_path, "calls") == sum(spent)
    assert _total(tmp_path, "tokens") == 10 * sum(spent)


def test_workers_killed_while_they_hold_reservations_never_let_the_day_go_over(tmp_path: Path) -> None:
    """What they had asked for may have been billed, so it stays counted; the next worker gets only the rest."""
    held = 0
    for _ in range(4):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        held += int(holder.stdout.readline())
        holder.kill()
        holder.wait(timeout=10)

    assert held == 14
    assert float(_total(tmp_path)) == pytest.approx(0.98)
    assert not DayLedger(tmp_path, Caps(usd=1.0)).reserve(Reservation(0.07, 30))


def test_a_reservation_counts_until_it_is_settled(tmp_path: Path) -> None:
    """A call in flight may cost its worst case."""
    ledger, other = DayLedger(tmp_path, Caps(usd=1.0)), DayLedger(tmp_path, Caps(usd=1.0))
    large, small = Reservation(0.9, 10), Reservation(0.2, 10)

    assert ledger.reserve(large)
    assert not other.reserve(small)
    ledger.settle(large, 0.1, 5)
    assert other.reserve(small)
    assert other.left.usd == pytest.approx(0.7)


def test_the_last_tenth_of_a_cent_fits_and_no_more(tmp_path: Path) -> None:
    """Ten times 0.1 is less than 1 in floating point, and three times more than 0.3."""
    ledger = DayLedger(tmp_path, Caps(usd=0.3))
    assert all(ledger.reserve(Reservation(0.1, 1)) for _ in range(3))
    assert not ledger.reserve(Reservation(1e-9, 1))
    assert ledger.left.usd == 0


@pytest.mark.parametrize(("caps", "fit"), [(Caps(calls=3), 3), (Caps(tokens=700), 7), (Caps(usd=1, tokens=250), 2)])
def test_calls_and_tokens_have_ceilings_of_a_day_too(tmp_path: Path, caps: Caps, fit: int) -> None:
    """A teacher whose price is unknown costs nothing in dollars, and still something."""
    ledgers = [DayLedger(tmp_path, caps) for _ in range(2)]
    assert sum(ledgers[number % 2].reserve(Reservation(0.0, 100)) for number in range(20)) == fit


def test_a_call_settles_on_the_day_it_was_begun(tmp_path: Path) -> None:
    """Over midnight it would count on two days, and could push the new one over its ceiling."""
    ledger, worst = DayLedger(tmp_path, Caps(usd=1.0)), Reservation(0.5, 100)
    assert ledger.reserve(worst)
    (today,) = tmp_path.iterdir()
    today.rename(yesterday := tmp_path / "2020-01-01.jsonl")
    ledger._open[0] = (worst, yesterday)  # pyright: ignore[reportPrivateUsage] - the clock cannot be turned back

    ledger.settle(worst, 0.125, 40)

    assert [json.loads(line)["usd"] for line in yesterday.read_text().splitlines()] == [0.5, -0.375]
    assert ledger.left.usd == 1.0


def test_lines_of_the_first_version_are_read(tmp_path: Path) -> None:
    """An update in the middle of a day must not forget the morning."""
    (tmp_path / f"{datetime.now(UTC):%Y-%m-%d}.jsonl").write_text(
        '{"at": "t", "pid": 1, "usd": 0.4}\n{"at": "t", "pid": 1, "usd": -0.1}\n', encoding="utf-8"
    )
    assert DayLedger(tmp_path, Caps(usd=1.0)).left.usd == pytest.approx(0.7)


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    """A death in mid-line leaves half a line; anything else was done by hand."""
    assert DayLedger(tmp_path, Caps(usd=1.0)).reserve(Reservation(0.5, 1))
    (day,) = tmp_path.iterdir()
    with day.open("ab") as stream:
        stream.write(b'{"usd": 0.')
    assert DayLedger(tmp_path, Caps(usd=1.0)).left.usd == pytest.approx(0.5)
    with day.open("ab") as stream:
        stream.write(b'{"usd": "much"}\n')
    with pytest.raises(DamagedRunError, match="is damaged"):
        DayLedger(tmp_path, Caps(usd=1.0)).reserve(Reservation(0.1, 1))
