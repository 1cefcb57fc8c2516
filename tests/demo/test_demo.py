"""The demo keeps what the README says of it."""

import json
from pathlib import Path

import pytest

from tests.conftest import Demo, run_demo


def test_the_demo_takes_ten_examples_to_a_model_that_beats_its_base(demo: Demo) -> None:
    """The promise of the whole project, in one command: no key, no download."""
    _holds(demo)
    for words in ("The first trace", "Before and after", "claude mcp add nanodistill", str(demo.run_folder)):
        assert words in demo.printed


def test_the_demo_run_again_shows_its_results_and_asks_the_teacher_nothing(demo: Demo) -> None:
    """Whoever runs it a second time has paid already, or would have."""
    calls = (demo.run_folder / "calls.jsonl").read_bytes()
    again = run_demo(demo.run_folder.parents[1])
    assert again.exit_code == 0, again.printed
    assert "Before and after" in again.printed
    assert (demo.run_folder / "calls.jsonl").read_bytes() == calls


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_holds_for_three_seeds_in_a_row(tmp_path: Path) -> None:
    """One lucky seed proves nothing."""
    for seed in (1, 2, 3):
        _holds(run_demo(tmp_path, "--seed", str(seed)))


def _holds(demo: Demo) -> None:
    assert demo.exit_code == 0, demo.printed
    evaluation = json.loads((demo.run_folder / "evaluation.json").read_text(encoding="utf-8"))["held_out"]
    export = json.loads((demo.run_folder / "export.json").read_text(encoding="utf-8"))
    assert evaluation["base"]["accuracy"] < 0.2
    assert evaluation["student"]["accuracy"] >= 0.8
    assert export["accuracy"]["accuracy"] >= 0.8
    assert export["parity"]["runtime"].startswith("xllamacpp")
    report = (demo.run_folder / "report.md").read_text(encoding="utf-8")
    for told in (evaluation["base"], evaluation["student"], evaluation["teacher"], export["accuracy"]):
        assert f"{told['correct']} of {told['rows']} | **{told['accuracy']:.0%}**" in report
    for name in ("loss.png", "scorecard.png"):
        assert f"]({name})" in report
        assert (demo.run_folder / name).read_bytes().startswith(b"\x89PNG")
    assert (demo.run_folder / "model" / "README.md").read_text(encoding="utf-8").startswith("---\n")
