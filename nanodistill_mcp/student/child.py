"""The entry of a student process: one request in, one result out. Whatever happens in here, only this process dies.

Exit codes: 0 done, 1 an anticipated failure (the result file says which), 70 anything else (the log holds the traceback);
a negative or other code is a death by signal or of a library.
"""

import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

from nanodistill_mcp.errors import ConfigurationError, NanodistillError, machine_error
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.student.answer_requests import AskGgufRequest, GenerateRequest
from nanodistill_mcp.student.export_requests import ExportRequest, FormsRequest, VerifyRequest
from nanodistill_mcp.student.requests import (
    DeviceRequest,
    Failed,
    InspectRequest,
    MeasureRequest,
    ProbeRequest,
    TrainRequest,
)

StudentRequest = (
    InspectRequest
    | MeasureRequest
    | ProbeRequest
    | TrainRequest
    | GenerateRequest
    | ExportRequest
    | FormsRequest
    | VerifyRequest
    | AskGgufRequest
    | DeviceRequest
)

EXIT_DONE, EXIT_FAILED, EXIT_CRASHED = 0, 1, 70

_REQUEST: TypeAdapter[StudentRequest] = TypeAdapter(Annotated[StudentRequest, Field(discriminator="kind")])
# Importing mlx_lm sets this limit, and fails if it may not.
_OPEN_FILES_NEEDED = 4096
_NICER = 5
"""Hours of computing give way to whoever sits at the machine."""


def main() -> None:
    """Carry out the request whose path is the only argument, and exit."""
    sys.exit(run(Path(sys.argv[1])))


def run(request_path: Path) -> int:
    """Carry out a request and write its result, last and atomically; answers with the exit code."""
    try:
        request = _of_this_rank(_REQUEST.validate_json(request_path.read_bytes()))
        result: BaseModel
        try:
            code, result = EXIT_DONE, _carry_out(request)
        except NanodistillError as error:
            traceback.print_exc()  # the cause, in the library's words, belongs in the log and nowhere else
            code, result = _failed(error)
        except OSError as error:
            if (known := machine_error(error)) is None:
                raise
            traceback.print_exc()
            code, result = _failed(known)
        write_json(request.result_path, result.model_dump(mode="json"))
    except Exception:  # noqa: BLE001 - the boundary of the process: without a result the worker reports a crash
        traceback.print_exc()
        return EXIT_CRASHED
    return code


def _failed(error: NanodistillError) -> tuple[int, Failed]:
    return EXIT_FAILED, Failed(kind=error.kind, what=error.what, next_step=error.next_step)


def _of_this_rank(request: StudentRequest) -> StudentRequest:
    """A training that was launched as several ranks gives each its own files."""
    if not isinstance(request, TrainRequest) or request.ranks == 1:
        return request
    from nanodistill_mcp.student.ranks import own_files

    return own_files(request)


def _carry_out(request: StudentRequest) -> BaseModel:  # noqa: C901 - one case a request
    """Dispatch; each import is made only by the process that needs it."""
    os.nice(_NICER)
    prepare()
    match request:
        case InspectRequest():
            from nanodistill_mcp.student.models import inspect

            return inspect(request)
        case MeasureRequest():
            from nanodistill_mcp.student.measure import measure

            return measure(request)
        case ProbeRequest():
            from nanodistill_mcp.student.probe import probe

            return probe(request)
        case TrainRequest():
            from nanodistill_mcp.student.lora import train

            return train(request)
        case GenerateRequest():
            from nanodistill_mcp.student.generate import generate

            return generate(request)
        case ExportRequest():
            from nanodistill_mcp.student.gguf import export

            return export(request)
        case FormsRequest():
            from nanodistill_mcp.student.forms import write_forms

            return write_forms(request)
        case VerifyRequest():
            from nanodistill_mcp.student.verify import verify

            return verify(request)
        case AskGgufRequest():
            from nanodistill_mcp.student.verify import ask

            return ask(request)
        case DeviceRequest():
            from nanodistill_mcp.student.device import look

            return look(request)


def prepare() -> None:
    """Set up the process before a library is imported, and log what was done."""
    for name, value in (("TOKENIZERS_PARALLELISM", "true"), ("HF_HUB_DISABLE_TELEMETRY", "1")):
        os.environ.setdefault(name, value)
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files not in (resource.RLIM_INFINITY, -1) and open_files < _OPEN_FILES_NEEDED and os.geteuid() != 0:
        raise ConfigurationError(
            f"A process here may open {open_files} files at most, and MLX-LM needs {_OPEN_FILES_NEEDED}.",
            next_step="Raise the hard limit of open files (ulimit -Hn) for the program that starts the server.",
        )
    from nanodistill_mcp.student import blas

    device = blas.prepare()
    sys.stdout.write(f"device={device.kind} blas={device.blas} compiles={device.compiles}\n")
    sys.stdout.flush()
