"""A client without a model: it makes a run and then does what each reply's next_step says, until there is a GGUF file.

    python examples/support_triage/drive.py --teacher claude-sonnet-5-5

The teacher's key is taken from this shell's environment. Run it again and it goes on where it stopped.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

HERE = Path(__file__).parent
SERVER = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=dict(os.environ))
ENDED_BADLY = {"failed", "cancelled", "interrupted"}


async def drive(arguments: dict[str, Any]) -> int:
    """Create the run and follow it to its end. The exit code is 0 when export_gguf is done."""
    async with Client(SERVER) as client:
        step: dict[str, Any] = {"tool": "create_run", "arguments": arguments, "why": "Begin."}
        while step["tool"] != "compare_models":  # what next_step says when every stage is done
            print(f"-> {step['tool']}({_short(step['arguments'])})\n   {step['why']}", flush=True)
            result = await client.call_tool(step["tool"], step["arguments"], read_timeout_seconds=120)
            reply = result.structured_content
            if result.is_error or reply is None:
                print("".join(getattr(block, "text", "") for block in result.content), file=sys.stderr)
                return 1
            if "plan" in reply:
                print(json.dumps(reply["plan"], indent=1))
            for stage in reply.get("stages", [reply]):  # get_status answers with all stages, a stage with itself
                if stage.get("state") in ENDED_BADLY:
                    print(f"{stage['stage']} {stage['state']}: {stage['message']}", file=sys.stderr)
                    return 1
                if stage.get("state") in {"queued", "running", "paused"}:
                    print(f"   {stage['stage']} {stage['state']} {stage['done']}/{stage['total']} {stage['message']}")
            if reply.get("result"):
                print(f"   {_short(reply['result'], 600)}")
            step = reply["next_step"]
        status = (await client.call_tool("get_status", {"run_id": arguments["name"]})).structured_content
        assert status is not None
        print(f"Done for ${status['spend']['cost_usd']:.2f}. Everything lies in {status['folder']}")
        return 0


def _short(value: object, limit: int = 160) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}..."


def main() -> int:
    """Read the command line and drive one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="support-triage", help="the run's id (default support-triage)")
    parser.add_argument("--seeds", type=Path, default=HERE / "seeds.jsonl", help="examples, one {input, output} a line")
    parser.add_argument("--instruction", type=Path, default=HERE / "instruction.md", help="what the model is to do")
    parser.add_argument("--teacher", default="", help="a LiteLLM model id, or an endpoint of the server's config.yaml")
    parser.add_argument("--student", default="", help="a hub id, or a local folder in allowed_paths")
    parser.add_argument("--augment-factor", type=int, default=50, help="training examples wanted per seed (default 50)")
    parser.add_argument("--budget-usd", type=float, default=5.0, help="the most the teacher may cost (default 5)")
    parser.add_argument("--options", type=json.loads, default={}, help="further options of create_run, as JSON")
    given = vars(parser.parse_args())
    seeds, instruction = given.pop("seeds"), given.pop("instruction")
    lines = seeds.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return anyio.run(drive, {**given, "seed": rows, "instruction": instruction.read_text(encoding="utf-8").strip()})


if __name__ == "__main__":
    sys.exit(main())
