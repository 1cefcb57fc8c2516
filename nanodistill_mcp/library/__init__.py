"""The whole path as a Python function: a client of the server, as an agent is. What users import is re-exported at the top.

    from nanodistill_mcp import distill

Nothing here imports the teacher or the student: the server is started as a child, and its stages are processes of their own.
"""

from nanodistill_mcp.library.configuration import DistillationConfig
from nanodistill_mcp.library.distilling import DistillationResult, distill
from nanodistill_mcp.library.failures import AmplificationError, NanoDistillError, TeacherAPIError, TrainingError

__all__ = [
    "AmplificationError",
    "DistillationConfig",
    "DistillationResult",
    "NanoDistillError",
    "TeacherAPIError",
    "TrainingError",
    "distill",
]
