"""A GGUF file that stays loaded in llama.cpp and answers one question after the other."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.student import room
from nanodistill_mcp.student.gguf_header import read_facts
from nanodistill_mcp.student.llama_cpp import LlamaCpp, Piece
from nanodistill_mcp.student.plain import opened, special_texts, without
from nanodistill_mcp.student.questions import Ask, Begun, Ended, KeepLoaded, Loaded, Refused, Told, Wrote


@dataclass
class _Answer:
    ask_id: int
    pieces: Generator[Piece]
    tokens: int = 0


class GgufEngine:
    """llama.cpp with one file, and the question it is answering. It is closed with the process."""

    def __init__(self, gguf_path: Path, request: KeepLoaded) -> None:
        """Load the file.

        Raises:
            MachineError: The machine cannot spare the memory.
            ExportError: It is not whole, or llama.cpp does not load it or is not usable here.
        """
        facts = read_facts(gguf_path)
        self._context = min(request.context_tokens, facts.context_length)
        needed = room.Room(gguf_path.stat().st_size, self._context * facts.state_bytes_per_token)
        room.questions_at_once(needed, request.model_copy(update={"parallel": 1}), self._context)
        self._llama = LlamaCpp(gguf_path, context_tokens=self._context)
        self._plain = without(special_texts(gguf_path.parent / "model"))
        self._answer: _Answer | None = None
        self.loaded = Loaded(context_tokens=self._context, parallel=1, device=self._llama.runtime)

    @property
    def is_busy(self) -> bool:
        return self._answer is not None

    def begin(self, ask: Ask) -> list[Told]:
        messages = [{**message, "content": self._plain(message["content"])} for message in ask.messages]
        try:
            tokens = self._llama.prompt_ids(messages)
            opening = opened(self._llama.prompt_text(messages))
        except ExportError:  # its template refuses the conversation
            return [Refused(id=ask.id, why="not_rendered")]
        room = self._context - len(tokens)
        if room < 1:
            return [Refused(id=ask.id, why="too_long", prompt_tokens=len(tokens))]
        seed = {} if ask.seed is None else {"seed": ask.seed % (1 << 32)}
        sampling = {"temperature": ask.temperature, "top_p": ask.top_p, "top_k": 0, "min_p": 0.0, **seed}
        pieces = self._llama.write(tokens, min(ask.max_tokens, room), **sampling)
        self._answer = _Answer(ask.id, pieces)
        return [Begun(id=ask.id, prompt_tokens=len(tokens), opening=opening)]

    def drop(self, ask_id: int) -> list[Told]:
        answer = self._answer
        if answer is None or answer.ask_id != ask_id:
            return []
        answer.pieces.close()
        self._answer = None
        return [Ended(id=ask_id, tokens=answer.tokens, finish="dropped")]

    def step(self) -> list[Told]:
        if (answer := self._answer) is None:
            return []
        piece = next(answer.pieces)
        answer.tokens = piece.completion_tokens or answer.tokens + 1
        told: list[Told] = [Wrote(id=answer.ask_id, text=piece.text, tokens=answer.tokens)] if piece.text else []
        if piece.stopped is not None:
            answer.pieces.close()
            self._answer = None
            told.append(
                Ended(id=answer.ask_id, tokens=piece.completion_tokens, finish="stop" if piece.stopped else "length")
            )
        return told
