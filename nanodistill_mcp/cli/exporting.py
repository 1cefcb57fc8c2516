"""``nanodistill-mcp export-data``: a run's rows for another trainer."""

from pathlib import Path

from nanodistill_mcp.pipeline.data_export import export_data
from nanodistill_mcp.pipeline.data_forms import DataForm
from nanodistill_mcp.runs.store import RunStore


def export_rows(home: Path, run_id: str, form: DataForm, *, out: str, reasoning: bool, model: str) -> int:
    """Write them, and say what starts a training with them."""
    run = RunStore(home).open(run_id)
    folder = Path(out or f"{run.run_id}-{form}").expanduser().absolute()
    made = export_data(run, form, folder, reasoning=reasoning, model=model)
    counts = ", ".join(f"{count} {name}" for name, count in made.rows.items())
    gone = f"\n{made.left_out} rows were left out: they hold most of a held-out example." if made.left_out else ""
    print(f"{made.folder}: {counts}{gone}\nThere: {made.command}")
    return 0
