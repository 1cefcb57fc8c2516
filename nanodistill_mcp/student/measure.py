"""What a student makes of a run's rows, before anything is trained: their tokens, and the proof that each teaches its answer."""

from pathlib import Path

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.models import look_at
from nanodistill_mcp.student.requests import Measured, MeasuredRow, MeasureRequest, StudentFacts
from nanodistill_mcp.student.shared_tokenizer import check_same_tokenizer

_NAMED = 5


def measure(request: MeasureRequest) -> Measured:
    """Tokenize every row in the student's own chat form. Loads its tokenizer, never its weights.

    Raises:
        TrainingError: A row would teach something else than its answer and the end of it; names the rows.
        UserInputError: The student is not usable.
        ConfigurationError: The student is not here and the hub cannot be reached.
    """
    facts, chat = look_at(request.student)
    teacher = _same_reader(request, chat)
    changed: list[str] = []
    parts = [_rows(request.dataset_dir / name, chat, changed) for name in ("train.jsonl", "valid.jsonl")]
    if changed:
        named = ", ".join(changed[:_NAMED]) + (", ..." if len(changed) > _NAMED else "")
        raise TrainingError(
            f"This student's tokenizer or chat template changes the answers of {len(changed)} rows ({named}), so that it would "
            "learn something else.",
            next_step="Drop or edit those rows with revise_examples, or choose another student with clone_run(student=...).",
        )
    usable = [[row for row in rows if not chat.quotes_end(row)] for rows in parts]
    measured = [
        [MeasuredRow(tokens=len(row.tokens), learnt=len(row.tokens) - row.target_start) for row in rows]
        for rows in usable
    ]
    quoting = sum(map(len, parts)) - sum(map(len, usable))
    return Measured(facts=facts, local_teacher=teacher, train=measured[0], valid=measured[1], quoting_rows=quoting)


def _same_reader(request: MeasureRequest, chat: ChatForm) -> StudentFacts | None:
    """What is known of the local teacher, proved to cut every text of the rows as the student does."""
    if not request.local_teacher:
        return None
    facts, its_chat = look_at(request.local_teacher)
    lines = [line for name in ("train.jsonl", "valid.jsonl") for line in read_lines(request.dataset_dir / name)]
    texts = list(dict.fromkeys(message["content"] for line in lines for message in line["messages"]))
    check_same_tokenizer(chat.tokenizer, its_chat.tokenizer, texts)
    return facts


def _rows(path: Path, chat: ChatForm, changed: list[str]) -> list[Row]:
    rows: list[Row] = []
    for line in read_lines(path):
        try:
            rows.append(chat.row(line["messages"]))
        except TrainingError:  # all of them are named at once
            changed.append(str(line.get("id", "?")))
    return rows
