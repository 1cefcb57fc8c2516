"""What is set up before MLX computes."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

_REPORT = (
    "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    "from nanodistill_mcp.student import blas\n"
    "device = blas.prepare()\n"
    "import mlx.core as mx\n"
    "a = mx.random.normal((1024, 1024)); mx.eval(a)\n"
    "best = 9e9\n"
    "for _ in range(3):\n"
    "    began = time.perf_counter(); mx.eval(a @ a); best = min(best, time.perf_counter() - began)\n"
    "print(device.kind, device.blas, device.compiles, best)\n"
)


def _report(**environment: str) -> list[str]:
    command = [sys.executable, "-I", "-c", _REPORT, str(Path(__file__).parents[2])]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")
@pytest.mark.skipif(ctypes.util.find_library("openblas") is None, reason="no OpenBLAS on this machine")
def test_a_system_openblas_takes_the_place_of_the_reference_blas() -> None:
    """The reference BLAS needs some 700 ms for this product, OpenBLAS 15 ms."""
    kind, blas, compiles, seconds = _report()
    if kind == "gpu":
        pytest.skip("products are computed on the GPU")

    assert blas.startswith("libopenblas")
    assert compiles == "False"
    assert float(seconds) < 0.2


def test_compilation_is_the_users_choice_when_they_made_one() -> None:
    """MLX reads the variable itself."""
    assert _report(MLX_DISABLE_COMPILE="0")[2] == "False"
