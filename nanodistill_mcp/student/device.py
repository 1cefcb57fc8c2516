"""Whether MLX can train here at all: two real steps of a tiny model, in a process that may die of it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportPrivateImportUsage=false

import importlib
import math
import time
from importlib import metadata
from typing import Any

import mlx.core as mx
from mlx import nn, optimizers

from nanodistill_mcp.student import blas
from nanodistill_mcp.student.requests import DeviceFacts, DeviceRequest

_WIDTH = 64


def look(_: DeviceRequest) -> DeviceFacts:
    """Take the steps and say what was found."""
    began_s = time.perf_counter()
    losses = _two_steps()
    elapsed_s = time.perf_counter() - began_s
    has_gpu = blas.device() != "cpu"
    info: dict[str, Any] = mx.device_info() if has_gpu else {}
    room = info.get("max_recommended_working_set_size") or info.get("total_memory") or 0  # Metal's name, and CUDA's
    return DeviceFacts(
        device=blas.words(),
        blas=blas.prepare().blas,
        mlx=metadata.version("mlx"),
        mlx_lm=metadata.version("mlx-lm"),
        elapsed_s=elapsed_s,
        learns=all(map(math.isfinite, losses)) and losses[-1] < losses[0],
        memory_gb=int(room) / 1e9,
        llama_cpp=_llama_cpp(),
    )


def _two_steps() -> list[float]:
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1))
    inputs = mx.random.normal((_WIDTH, _WIDTH))
    wanted = inputs.sum(axis=1, keepdims=True)
    optimizer = optimizers.Adam(learning_rate=0.01)
    step = nn.value_and_grad(model, lambda: nn.losses.mse_loss(model(inputs), wanted))
    losses: list[float] = []
    for _ in range(3):  # the third is the loss after two updates
        loss, gradients = step()
        losses.append(float(loss.item()))
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    return losses


def _llama_cpp() -> str:
    try:
        importlib.import_module("xllamacpp")
    except ImportError:
        return ""
    return f"xllamacpp {metadata.version('xllamacpp')}"
