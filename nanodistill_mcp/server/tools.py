"""The whole list of tools; their words and arguments stand in the tools_*.py modules."""

from mcp.server.mcpserver.tools import Tool

from nanodistill_mcp.server.board import SHOWN_BY
from nanodistill_mcp.server.boundary import strict_tool
from nanodistill_mcp.server.tools_host import next_teacher_tasks, submit_teacher_answers
from nanodistill_mcp.server.tools_looking import get_status, read_artifact, revise_examples
from nanodistill_mcp.server.tools_making import clone_run, create_run, delete_run, refine
from nanodistill_mcp.server.tools_stages import (
    amplify,
    compare_models,
    control_job,
    evaluate,
    export_gguf,
    extract_policy,
    synthesize_cot,
    train,
)


def all_tools() -> list[Tool]:
    """Every tool, in the order an agent meets them."""
    return [
        strict_tool(
            create_run,
            title="Create a run",
            open_world=True,
            found_by="distill, fine-tune or train a small local model from examples",
        ),
        strict_tool(clone_run, title="Clone a run", open_world=True),
        strict_tool(
            synthesize_cot, title="Solve the examples", open_world=True, found_by="reasoning traces by a teacher model"
        ),
        strict_tool(extract_policy, title="Extract the policy", open_world=True),
        strict_tool(amplify, title="Generate examples", open_world=True, found_by="synthetic training data"),
        strict_tool(revise_examples, title="Revise the examples"),
        strict_tool(train, title="Train the student"),
        strict_tool(evaluate, title="Evaluate the student"),
        strict_tool(
            refine, title="Refine where it fails", open_world=True, found_by="improve a trained model where it is wrong"
        ),
        strict_tool(export_gguf, title="Export to GGUF", found_by="Ollama, LM Studio, llama.cpp"),
        strict_tool(
            get_status, title="Status", read_only=True, found_by="progress, cost and list of runs", shown_by=SHOWN_BY
        ),
        strict_tool(read_artifact, title="Read an artifact", read_only=True),
        strict_tool(compare_models, title="Compare answers", open_world=True, found_by="try a trained model"),
        strict_tool(control_job, title="Pause, resume, cancel", destructive=True),
        strict_tool(next_teacher_tasks, title="Take questions as the teacher", idempotent=False),
        strict_tool(submit_teacher_answers, title="Answer as the teacher"),
        strict_tool(delete_run, title="Delete a run", destructive=True, idempotent=False),
    ]
