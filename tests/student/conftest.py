"""A tiny student made once, and MLX set up as a student process sets it up."""

import os
from pathlib import Path

import pytest

from nanodistill_mcp.student import blas
from tests.tiny_student import make_tiny

# Two cores are shared by every test process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
blas.prepare()


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama."""
    return make_tiny(tmp_path_factory.mktemp("students") / "llama")


@pytest.fixture(scope="session")
def quantized_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in 4 bits."""
    return make_tiny(tmp_path_factory.mktemp("students") / "llama-4bit", quantize_bits=4)
