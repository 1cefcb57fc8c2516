"""A student process that behaves, or does not. Stands alone, so that it starts at once."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

request: dict[str, Any] = json.loads(Path(sys.argv[1]).read_bytes())
folder = Path(request["result_path"]).parent


def whole(path: Path, value: object) -> None:
    """A file that is there whole, or not yet."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value))
    os.replace(draft, path)


def answer(text: str) -> None:
    """The result of an errand."""
    whole(Path(request["result_path"]), {"text": text})


def for_ever() -> NoReturn:
    """Until a signal ends it."""
    while True:
        signal.pause()


def grandchild(*, deaf: bool) -> int:
    """A child of this process that inherits what it holds; a deaf one ignores SIGTERM."""
    came_up, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        if deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(tell, b"1")
        for_ever()
    os.read(came_up, 1)
    return pid


match request["does"]:
    case "answer":
        for step in (1, 2, 3):
            with open(request["metrics_path"], "a") as metrics:
                metrics.write(json.dumps({"event": "step", "step": step}) + "\n")
        answer("done")
    case "refuse":
        failed = {"failed": True, "kind": "training", "what": "The loss is not a number.", "next_step": "Lower it."}
        whole(Path(request["result_path"]), failed)
        sys.exit(1)
    case "die":
        os.kill(os.getpid(), signal.SIGKILL)
    case "exit 3":
        sys.exit(3)
    case "stay":
        whole(folder / "pids", [os.getpid()])
        for_ever()
    case "tree":
        whole(folder / "pids", [os.getpid(), grandchild(deaf=True), grandchild(deaf=False)])
        for_ever()
    case "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        whole(folder / "pids", [os.getpid(), grandchild(deaf=True)])
        for_ever()
    case "stop":
        whole(folder / "pids", [os.getpid()])
        os.kill(os.getpid(), signal.SIGSTOP)
        for_ever()
    case "leave a grandchild":
        whole(folder / "pids", [grandchild(deaf=True)])
        answer("left one")
    case _:
        raise ValueError(request["does"])
