"""What is set up before MLX computes."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.student import blas
from nanodistill_mcp.student.requests import DeviceRequest
from tests.student.bench import carry_out

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
    if kind != "cpu":
        pytest.skip("products are computed on the GPU")

    assert blas.startswith("libopenblas")
    assert compiles == "False"
    assert float(seconds) < 0.2


@pytest.mark.parametrize(
    ("wanted", "there", "taken"),
    [
        ("auto", ("metal", "cpu"), "metal"),
        ("auto", ("cuda", "cpu"), "cuda"),
        ("auto", ("cpu",), "cpu"),
        ("cpu", ("metal", "cpu"), "cpu"),
        ("cuda", ("cuda", "cpu"), "cuda"),
    ],
)
def test_the_fastest_device_there_is_computes_unless_another_is_asked_for(
    wanted: str, there: tuple[str, ...], taken: str
) -> None:
    """Metal before CUDA before the CPU, and the user's word before that."""
    assert blas.chosen(wanted, there) == taken


@pytest.mark.skipif(sys.platform == "darwin", reason="has Metal")
def test_a_device_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    """Hours on the CPU are not what somebody wanted who asked for the GPU."""
    with pytest.raises(ConfigurationError, match="device=metal, and MLX has only cpu here") as refused:
        blas.chosen("metal", ("cpu",))
    assert "metal, cuda, cpu" in refused.value.next_step

    code, told = carry_out(DeviceRequest(result_path=tmp_path / "told.json"), NANODISTILL_DEVICE="metal")
    assert (code, told["kind"]) == (1, "configuration")


def test_compilation_is_the_users_choice_when_they_made_one() -> None:
    """MLX reads the variable itself."""
    assert _report(MLX_DISABLE_COMPILE="0")[2] == "False"
