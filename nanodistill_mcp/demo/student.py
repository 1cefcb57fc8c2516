"""The demo's student: a general model of a few hundred kilobytes, shipped with the package."""

from importlib import resources
from pathlib import Path


def student_path() -> Path:
    """The folder of the packaged base model, loadable by MLX-LM. `make_student.py` says how it came to be."""
    return Path(str(resources.files("nanodistill_mcp.demo").joinpath("student_base")))
