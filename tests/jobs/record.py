"""Records what the guard sees beside a real training on this machine: ``python tests/jobs/record.py OUT.jsonl``.

The training is the demo's student's; half-way another program takes a processor for a while.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.jobs.measuring import MachineSampler
from tests.student.bench import events, start, training

LOOKS, BUSY = 45, range(20, 35)


def main(out: Path) -> None:
    """Write one sample a line."""
    sampler, lines = MachineSampler(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        request = training(Path(folder), student_path(), train=64, batch_size=16, iters=100_000, steps_per_eval=50_000)
        with start(request, HF_HUB_OFFLINE="1") as trainer:
            other = None
            for look in range(LOOKS):
                time.sleep(sampler.every_s)
                if look == BUSY.start:
                    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                if look == BUSY.stop and other is not None:
                    other.kill()
                    other.wait()
                sample = sampler.sample(trainer.pid)
                steps = len(events(request, "step")) if request.metrics_path.exists() else 0
                lines.append(json.dumps(dataclasses.asdict(dataclasses.replace(sample, steps=steps))))
            trainer.kill()
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
