"""``nanodistill-mcp adopt``: a folder that NanoDistill made, taken over as a run."""

from pathlib import Path

import anyio

from nanodistill_mcp.pipeline import estimate, plan
from nanodistill_mcp.pipeline.adopt import Adopted, read_folder
from nanodistill_mcp.runs.records import RunManifest
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.server.preflight import inspect_both
from nanodistill_mcp.server.recall import Recall
from nanodistill_mcp.settings import load_settings


def adopt_folder(home: Path, folder: str, *, name: str, instruction: str, student: str) -> int:
    """Make a run of it, and say what was taken and what comes next."""
    adopted = read_folder(Path(folder).expanduser().absolute(), instruction)
    run, created = make_run(home, adopted, name=name, instruction=instruction, student=student)
    if not created:
        print(f"Run {run.run_id} was made of it before: nanodistill-mcp show {run.run_id}")
        return 0
    left_out = "".join(f"; left out {count}: {why}" for why, count in adopted.left_out.items())
    print(
        f"Run {run.run_id} has {len(adopted.seeds)} seeds and {len(adopted.examples)} examples{left_out}.\n"
        "NanoDistill did not verify its outputs: look through examples.jsonl before training (revise_examples, or show --web).\n"
        f"To train, prove and export it: say so to your agent, or call train(run_id={run.run_id!r}). Nothing is held out: give "
        "evaluate(test_path=...) rows with answers of a person."
    )
    return 0


def make_run(home: Path, adopted: Adopted, *, name: str, instruction: str, student: str) -> tuple[Run, bool]:
    """Make a run whose paid stages are done, of what somebody else paid for; whether it was made now."""
    settings = load_settings(home)
    if student.startswith(("/", "~", ".")):  # whoever types it names it
        student = str(Path(student).expanduser().absolute())
        settings = settings.model_copy(update={"allowed_paths": [*settings.allowed_paths, Path(student)]})
    train = sum(seed.split == "train" for seed in adopted.seeds)
    factor = max(1, min(1000, round(len(adopted.examples) / train)))
    request = plan.check_request(
        settings,
        name=name,
        instruction=instruction,
        seed=[],
        seed_path="",
        teacher="",
        student=student,
        augment_factor=factor,
        reasoning="cot" if any(example.thinking for example in adopted.examples) else "direct",
        response_schema={},
        preset="recommended",
        options={},
        budget_usd=0,
        kept=(adopted.seeds, []),
    )
    store = RunStore(home)
    existing = store.find(request.run_id)
    if existing is not None and existing.manifest.spec == request.spec:
        return existing, False

    async def look() -> RunManifest:
        texts = estimate.texts_to_count(request)
        teacher, facts = await inspect_both(
            request.endpoint, request.student, texts, lambda _: None, recall=Recall(home / "checks")
        )
        return plan.make_manifest(request, teacher, facts, estimate.make_plan(request, teacher, facts))

    return store.create(anyio.run(look), request.seeds, fill=adopted.write)
