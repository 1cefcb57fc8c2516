"""What a client offers while a user types an argument of a prompt or of a resource's address."""

from collections.abc import Iterable
from contextlib import suppress

from mcp.types import Completion, PromptReference, ResourceTemplateReference

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.records import RunSpec
from nanodistill_mcp.server.app import App
from nanodistill_mcp.server.artifacts import artifact_list
from nanodistill_mcp.server.views import EXAMPLES
from nanodistill_mcp.settings import HOST_TEACHER
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS

_MOST = 100
_RUNS_LOOKED_AT = 20


def complete(
    app: App, ref: PromptReference | ResourceTemplateReference, argument: str, typed: str, given: dict[str, str]
) -> Completion:
    """The values that begin with what was typed, then those that hold it; never more than a client may be sent."""
    wanted = typed.casefold()
    known = list(dict.fromkeys(_values(app, ref, argument, given)))
    begin = [value for value in known if value.casefold().startswith(wanted)]
    found = [*begin, *(value for value in known if wanted in value.casefold() and value not in begin)]
    return Completion(values=found[:_MOST], total=len(found), has_more=len(found) > _MOST)


def _values(
    app: App, ref: PromptReference | ResourceTemplateReference, argument: str, given: dict[str, str]
) -> Iterable[str]:
    match argument:
        case "run_id":
            return app.store.names()
        case "artifact" if isinstance(ref, ResourceTemplateReference):
            return _artifacts(app, given.get("run_id", ""))
        case "quantization":
            return QUANTIZATIONS
        case "teacher":
            used = (spec.teacher for spec in _specs(app))
            return [app.settings.default_teacher, *app.settings.teachers, HOST_TEACHER, *used]
        case "student":
            return [app.settings.default_student, *(spec.student for spec in _specs(app))]
        case _:
            return ()


def _specs(app: App) -> list[RunSpec]:
    """What the newest runs were asked for: whoever made one is likely to name the same again."""
    found: list[RunSpec] = []
    for _, run in zip(range(_RUNS_LOOKED_AT), app.store.all(), strict=False):
        with suppress(NanodistillError, OSError):  # a damaged run has nothing to offer; get_status says what is wrong
            found.append(run.manifest.spec)
    return found


def _artifacts(app: App, run_id: str) -> list[str]:
    try:
        run = app.store.open(run_id)
        names = [artifact.name for artifact in artifact_list(run)]
    except (NanodistillError, OSError):  # still being typed, or damaged: there is nothing to offer
        return []
    return ["status", *([EXAMPLES] if run.paths.traces_amplified.exists() else []), *names]
