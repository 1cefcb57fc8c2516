"""One training over several processes or machines: ``mlx.launch`` starts the same entry on each, as its rank.

Every rank trains on its share of each batch, and gradients are averaged, so all hold the same weights and losses and come to
the same decisions. Each keeps files of its own: ranks may lie on different machines. The first rank's are the run's.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.student.dataset import Loss
from nanodistill_mcp.student.requests import TrainRequest


def rank_and_size() -> tuple[int, int]:
    """Which rank this process is, and how many there are; (0, 1) where nothing was launched."""
    group = mx.distributed.init()
    return group.rank(), group.size()


def told_by_all(value: int) -> list[int]:
    """What each rank says, by rank. All have to ask at the same point."""
    if rank_and_size()[1] == 1:
        return [value]
    return cast("list[int]", mx.distributed.all_gather(mx.array([value]), stream=mx.cpu).tolist())


def own_files(request: TrainRequest) -> TrainRequest:
    """The request with files of this rank's own; the first rank's are left as they are."""
    rank, size = rank_and_size()
    if size != request.ranks:  # a backend that finds nobody trains as many students as there are machines
        raise TrainingError(
            f"{request.ranks} processes were started to train together, and found {size} of each other.",
            next_step="Correct the backend and the addresses in the host file; docs/training.md has one.",
        )
    if rank == 0:
        return request

    def own(path: Path) -> Path:
        return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")

    names = ("checkpoints_dir", "adapter_dir", "metrics_path", "result_path", "control_path")
    own_paths = {name: own(getattr(request, name)) for name in names}
    own_paths["teaching_dir"] = own(request.teaching_dir or request.checkpoints_dir.with_name("teaching"))
    return request.model_copy(update={**own_paths, "guard_path": None})


def weighed(loss: Loss) -> Loss:
    """A rank's mean loss, weighted by its part of the batch's tokens, so that the mean over ranks is that of the whole batch.

    MLX-LM averages the ranks' means and gradients as they are, which counts the tokens of a short share for more.
    """
    size = rank_and_size()[1]
    if size == 1:
        return loss

    def of_the_batch(*batch: Any) -> tuple[mx.array, mx.array]:
        mean, tokens = loss(*batch)
        of_all = mx.distributed.all_sum(mx.stop_gradient(tokens).astype(mx.float32))
        return mean * (tokens * size / of_all), tokens

    return of_the_batch
