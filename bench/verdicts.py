"""Do the intervals and verdicts of evaluate keep what they promise? Simulated evaluations with known accuracies.

Each draws held-out rows on which student and base are right with known shares, and judges them with the code that evaluate
uses. Printed are: how often the 95 % interval of a share, and of the difference, holds the true one; and how often "better"
is said where both are equal.

    python bench/verdicts.py [--evaluations 2000]
"""

import argparse
import random
import sys
from collections import Counter
from typing import Any

from nanodistill_mcp.pipeline.evaluate import compared, score
from nanodistill_mcp.pipeline.verdicts import judged

CASES = ((0.3, 0.3), (0.6, 0.6), (0.9, 0.9), (0.9, 0.5), (0.7, 0.6))
ROWS = (20, 60, 200)


def simulated(rng: random.Random, rows: int, student: float, base: float) -> dict[str, Any]:
    """One evaluation of independent rows."""
    ids = [(str(number), "", "") for number in range(rows)]
    right = {
        name: {row for row, _, _ in ids if rng.random() < share}
        for name, share in (("student", student), ("base", base))
    }
    part: dict[str, Any] = {name: score(ids, theirs) for name, theirs in right.items()}
    return part | {"student_against_base": compared(right, "base", [row for row, _, _ in ids])}


def main() -> int:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=2000, help="of each case (default 2000)")
    count = parser.parse_args().evaluations
    print("| rows | student, base | share in its interval | difference in its interval | better | worse | not told |")
    print("|---|---|---|---|---|---|---|")
    for rows in ROWS:
        for student, base in CASES:
            rng = random.Random(f"{rows} {student} {base}")
            found: Counter[str] = Counter()
            for _ in range(count):
                part = simulated(rng, rows, student, base)
                low, high = part["student"]["interval_95"]
                found["share"] += low <= student <= high
                low, high = part["student_against_base"]["interval_95"]
                found["difference"] += low <= student - base <= high
                words = judged({"held_out": part}).words
                found["better" if "better" in words else "worse" if "worse" in words else "not"] += 1
            shown = [f"{found[name] / count:.1%}" for name in ("share", "difference", "better", "worse", "not")]
            print(f"| {rows} | {student:.0%}, {base:.0%} | {' | '.join(shown)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
