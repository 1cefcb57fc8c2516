"""The support tickets of examples/support_triage as a model of one's own, in one call, with any of the presets.

    python examples/python/distill_tickets.py                       # the recommended recipe
    python examples/python/distill_tickets.py low_memory --teacher gpt-4.1-mini --budget 2

The presets: recommended, nanodistill, minimal, low_memory, high_performance, quick, production, exploration. What each
changes stands in docs/options.md; what is set here goes before it.
"""

import argparse
from pathlib import Path

from nanodistill_mcp import NanoDistillError, distill

TICKETS = Path(__file__).resolve().parents[1] / "support_triage"


def main() -> int:
    """Carry it out; the exit code is 1 when it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="recommended")
    parser.add_argument("--teacher", default="", help="a LiteLLM id or a configured endpoint")
    parser.add_argument("--student", default="", help="a hub id or a local folder")
    parser.add_argument("--seeds", type=Path, default=TICKETS / "seeds.jsonl", help="other examples, in a file")
    parser.add_argument(
        "--instruction", type=Path, default=TICKETS / "instruction.md", help="their instruction, in a file"
    )
    parser.add_argument("--augment-factor", type=int, default=50, help="training examples wanted per seed")
    parser.add_argument("--budget", type=float, default=5.0, help="the most the teacher is paid, in dollars")
    given = parser.parse_args()
    try:
        result = distill(
            name=f"tickets-{given.preset}",
            seed=given.seeds,
            instruction=given.instruction.read_text(encoding="utf-8"),
            teacher=given.teacher,
            student=given.student,
            augment_factor=given.augment_factor,
            preset=given.preset,
            budget_usd=given.budget,
        )
    except NanoDistillError as stopped:
        print(f"{stopped.what}\n{stopped.next_step}")
        return 1
    print(f"{result.gguf_path}: {result.decision}, ${result.cost_usd:.2f}; {result.report_path} says it on one page")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
