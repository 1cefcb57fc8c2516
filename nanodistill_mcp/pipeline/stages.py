"""The stages by name, as a worker carries them out."""

from nanodistill_mcp.jobs.supervise import Stage
from nanodistill_mcp.pipeline.amplify import amplify
from nanodistill_mcp.pipeline.compare import compare_models
from nanodistill_mcp.pipeline.evaluate import evaluate
from nanodistill_mcp.pipeline.export import export_gguf
from nanodistill_mcp.pipeline.integrity import with_proof
from nanodistill_mcp.pipeline.policy import extract_policy
from nanodistill_mcp.pipeline.report.stage import with_report
from nanodistill_mcp.pipeline.synthesize import synthesize_cot
from nanodistill_mcp.pipeline.training import plan_training, train
from nanodistill_mcp.runs.records import Stage as StageName

_CARRIED_OUT: dict[StageName, Stage] = {
    "synthesize_cot": synthesize_cot,
    "extract_policy": extract_policy,
    "amplify": amplify,
    "train": with_report(train),
    "evaluate": with_report(evaluate),
    "export_gguf": with_report(export_gguf),
    "compare_models": compare_models,
    "plan_training": plan_training,
}

STAGES: dict[StageName, Stage] = {name: with_proof(name, stage) for name, stage in _CARRIED_OUT.items()}
