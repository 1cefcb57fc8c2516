"""Students: where one is, what is known of it before it is trained, and loading it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from mlx import nn

from nanodistill_mcp.errors import NanodistillError, TrainingError, UserInputError
from nanodistill_mcp.runs.files import append_line
from nanodistill_mcp.student import hub
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.folder import StudentFolder, not_a_student
from nanodistill_mcp.student.requests import InspectRequest, StudentFacts
from nanodistill_mcp.student.shared_tokenizer import check_same_tokenizer

_CONTEXT_ASSUMED = 2048
_USEFUL_BITS = 4
# What MLX says when memory runs out, on Metal, CUDA and the CPU.
_OUT_OF_MEMORY = ("Insufficient Memory", "OutOfMemory", "out of memory", "Unable to allocate", "Attempting to allocate")


def inspect(request: InspectRequest) -> StudentFacts:
    """Is this student there, safe and trainable, and its local teacher? Loads tokenizers, never weights.

    Of a student that is only on the hub everything but the weights is fetched.

    Raises:
        UserInputError: It is no student, or not a usable one; says what is accepted. Or the local teacher is none for it.
        ConfigurationError: It is not here and the hub cannot be reached.
    """
    facts, chat = look_at(request.student)
    if request.local_teacher:
        check_same_tokenizer(chat.tokenizer, look_at(request.local_teacher)[1].tokenizer)
    return facts


def look_at(student: str) -> tuple[StudentFacts, ChatForm]:
    """What is known of a student, and its chat form, proved to keep an answer and its end.

    Raises:
        UserInputError: It is no student, or not a usable one; says what is accepted.
        ConfigurationError: It is not here and the hub cannot be reached.
    """
    folder, remote = _find(student)
    folder.check_safe()
    if remote is None:
        folder.check_whole()
    else:
        folder.check_tokenizer()
    hub.stay_offline()
    from nanodistill_mcp.student.gguf_outlook import why_no_gguf

    tokenizer = load_tokenizer(folder)
    chat = _checked_chat(tokenizer)
    context = folder.max_position_embeddings
    bits = folder.quantized_bits
    warnings: list[str] = []
    if context is None:
        warnings.append(f"The student states no context length; {_CONTEXT_ASSUMED} tokens are assumed.")
    if bits is not None and bits < _USEFUL_BITS:
        warnings.append(
            f"The student is quantized to {bits} bits; below {_USEFUL_BITS} bits much of what it can learn is lost."
        )
    if not chat.keeps_system:
        warnings.append("The student's chat template takes no system message; the instruction goes into the user's.")
    if why := why_no_gguf(folder.config, tokenizer):
        warnings.append(f"export_gguf will write no GGUF file of this student, only the fused MLX model: {why}")
    facts = StudentFacts(
        student=student,
        student_path=folder.path if remote is None else None,
        revision="" if _is_path(student) else folder.revision,
        model_type=folder.model_type,
        parameters=folder.parameters if remote is None else _parameters(remote, bits),
        bytes_on_disk=folder.bytes_on_disk,
        bytes_to_download=0 if remote is None else remote.weight_bytes,
        layers=folder.layers,
        hidden_size=folder.hidden_size,
        kind=folder.kind,
        quantized_bits=bits,
        max_position_embeddings=context or _CONTEXT_ASSUMED,
        has_chat_template=True,
        thinks_natively=tokenizer.think_start == "<think>",
        licence=folder.licence if remote is None else remote.licence,
        warnings=warnings,
    )
    return facts, chat


def resolve(student: str) -> Path:
    """The folder that holds a student, checked to be safe and whole. Downloads nothing.

    Args:
        student: The absolute path of a folder, or a hub id that is cached.

    Raises:
        UserInputError: It is no student, or a hub id whose weights are not here.
    """
    folder = _local(student) if _is_path(student) else _cached(student)
    if folder is None:
        raise not_a_student(
            f"The student {student} is not on this machine yet.",
            "Call train, which downloads it, or give a local folder.",
        )
    folder.check_safe()
    folder.check_whole()
    hub.stay_offline()
    return folder.path


def fetch(student: str, metrics_path: Path) -> Path:
    """Like :func:`resolve`, but downloads a student that is only on the hub. Its configuration is checked before that.

    Raises:
        UserInputError: It is no student, or not a usable one.
        ConfigurationError: It is not here and the hub cannot be reached.
    """
    folder, remote = _find(student)
    folder.check_safe()
    if remote is not None:
        append_line(metrics_path, {"event": "download", "bytes": remote.weight_bytes})
        hub.download(student)
    return resolve(student)


def load(student_path: Path, adapter_dir: Path | None = None, *, lazy: bool = False) -> tuple[nn.Module, Any]:
    """Load a student and its tokenizer, with an adapter if there is one. Never runs code from the folder.

    Args:
        student_path: Its folder, checked.
        adapter_dir: Of an adapter that is put on it.
        lazy: Read no weight until something is computed with it.

    Returns:
        The model, in evaluation mode, and MLX-LM's TokenizerWrapper.

    Raises:
        UserInputError: Its files do not fit together.
        TrainingError: Not enough memory.
    """
    from mlx_lm import load as mlx_load

    with memory_errors(), loading_errors():
        loaded = mlx_load(str(student_path), adapter_path=str(adapter_dir) if adapter_dir else None, lazy=lazy)
    return loaded[0], loaded[1]


@contextmanager
def loading_errors() -> Generator[None]:
    """Turn a library's complaint about a student's files, or an adapter's, into ours.

    Raises:
        UserInputError: Loading failed inside the block.
    """
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise not_a_student(
            "The student's weights, configuration and tokenizer do not fit together, or not with its adapter.",
            "Download or copy the student again, or choose another with create_run(student=...).",
        ) from error


@contextmanager
def memory_errors() -> Generator[None]:
    """Turn MLX's ways of running out of memory into an error that says what to change.

    Raises:
        TrainingError: Memory ran out inside the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "There is not enough memory for this student and these options.",
            next_step="Close other programs, or lower options.batch_size or max_seq_length, set gradient_checkpointing, "
            "or choose a smaller student.",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Is this how MLX says that memory ran out?"""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _find(student: str) -> tuple[StudentFolder, hub.Remote | None]:
    """A student's folder; with what the hub says of it if its weights are not here."""
    if _is_path(student):
        return _local(student), None
    here = _cached(student)
    if here is not None and here.has_weights:
        return here, None
    remote = hub.look_up(student)
    return StudentFolder(remote.folder), remote


def _parameters(remote: hub.Remote, bits: int | None) -> int:
    """How many parameters a student on the hub has; the few that are not packed are left out of a quantized one's."""
    return remote.elements.get("U32", 0) * 32 // bits if bits else sum(remote.elements.values())


def _is_path(student: str) -> bool:
    if student.startswith(("/", "~")):
        return True
    pinned = hub.PINNED.match(student)
    repo_id = pinned["repo_id"] if pinned else student
    if hub.REPO_ID.match(repo_id) and "--" not in repo_id and ".." not in repo_id:
        return False
    raise not_a_student("That is neither an absolute path nor a hub id.")


def _local(student: str) -> StudentFolder:
    try:
        path = Path(student).expanduser()
        is_folder = path.is_absolute() and path.is_dir()
    except (RuntimeError, ValueError, OSError):  # an unknown ~user, a NUL, a name that is too long
        is_folder = False
    if not is_folder:
        raise not_a_student("There is no folder at the student's path.")
    return StudentFolder(Path(student).expanduser())


def _cached(student: str) -> StudentFolder | None:
    path = hub.cached(student)
    return StudentFolder(path) if path is not None else None


def load_tokenizer(folder: StudentFolder) -> Any:
    """A student's tokenizer alone: MLX-LM's TokenizerWrapper.

    Raises:
        UserInputError: It cannot be loaded.
    """
    from mlx_lm import utils

    try:
        return utils.load_tokenizer(folder.path, eos_token_ids=utils.load_config(folder.path).get("eos_token_id"))
    except NanodistillError:
        raise
    except Exception as error:  # any file of a tokenizer can be wrong in any way
        raise not_a_student("This student's tokenizer could not be loaded.") from error


def _checked_chat(tokenizer: Any) -> ChatForm:
    if not tokenizer.has_chat_template:
        raise not_a_student(
            "This student has no chat template, so it was not made to answer.",
            "Choose an instruction-tuned student: its name often ends in -Instruct or -it. " + "Base models have none.",
        )
    try:
        chat = ChatForm(tokenizer)
        chat.check()
    except (TrainingError, TemplateError) as error:
        raise UserInputError(
            "This student's chat template does not keep an answer and its end, so it cannot be trained on answers.",
            next_step="Choose another instruction-tuned student with create_run(student=...).",
        ) from error
    return chat
