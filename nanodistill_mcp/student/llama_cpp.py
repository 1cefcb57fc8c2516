"""llama.cpp in this process: load a GGUF file, tokenize, render prompts, answer, give next-token distributions.

Only for a process of its own: a file that is wrong in the right place makes llama.cpp abort. It is asked over its own
HTTP interface on the loopback address with a random key; without a key any local page could call it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import http.client
import importlib
import importlib.metadata
import json
import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.student.chat import left_to_write
from nanodistill_mcp.student.requests import Message

_ANSWER_TIMEOUT_S = 1800
_SMALL_BYTES = 50_000_000
_FORCED = 1e6
_PROBE = ("Xylophone systems first.", "Which colour?")


class LlamaCppMissingError(ExportError):
    """llama.cpp cannot be used on this machine at all."""


@dataclass(frozen=True)
class Answer:
    """A greedy completion."""

    text: str
    tokens: list[int]
    completion_tokens: int
    """Without the token that ended the answer."""
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """A piece of an answer while it is written."""

    text: str
    completion_tokens: int
    """Of the whole answer so far, where llama.cpp says."""
    stopped: bool | None
    """Set on the last piece: whether the student stopped by itself."""


class LlamaCpp:
    """One loaded model. Use as a context manager; leaving it stops the server and frees the memory."""

    def __init__(self, gguf_path: Path, *, context_tokens: int) -> None:
        """Load a file.

        Args:
            gguf_path: A file whose header ``gguf_header.read_facts`` has read.
            context_tokens: Room for the longest prompt and its answer.

        Raises:
            LlamaCppMissingError: llama.cpp is not installed, or its library does not load.
            ExportError: It does not load the file.
        """
        os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would start a debugger and hang for minutes
        try:
            xllamacpp: Any = importlib.import_module("xllamacpp")
        except ImportError as error:
            raise LlamaCppMissingError(
                "llama.cpp is not usable here, so the GGUF file was written but not checked.",
                next_step="Install xllamacpp (on Linux it needs libgomp1) and call export_gguf again.",
            ) from error
        self.runtime = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
        self._key = secrets.token_urlsafe(24)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(gguf_path)
        parameters.n_ctx = context_tokens
        parameters.n_parallel = 1
        parameters.n_gpu_layers = 0
        # llama.cpp's threads wait for each other by spinning, which costs a small student more than they bring.
        small = gguf_path.stat().st_size < _SMALL_BYTES
        parameters.cpuparams.n_threads = 1 if small else min(os.cpu_count() or 1, 8)
        parameters.use_jinja = True
        parameters.enable_reasoning = -1
        parameters.warmup = False
        parameters.verbosity = 1
        parameters.api_keys = [self._key]
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ExportError(
                "llama.cpp does not load the GGUF file.",
                next_step="Call export_gguf with restart=true; if it fails again, use the fused model, which is whole.",
            ) from error
        self._host = str(self._server.listening_address).removeprefix("http://")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server = None

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids, with special tokens in the text recognised; ``add_special`` puts the BOS the file asks for."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return self._post("/tokenize", body)["tokens"]

    def prompt_ids(self, messages: list[Message], opening: str = "") -> list[int]:
        """The ids of a conversation, rendered by llama.cpp from the chat template in the file, and of the answer's opening."""
        prompt = self.prompt_text(messages)
        return self.tokenize(prompt + (left_to_write(prompt, opening) if opening else ""), add_special=True)

    def prompt_text(self, messages: list[Message]) -> str:
        """A conversation up to where the answer begins.

        A template that refuses or drops a system message gets its text at the head of the first user message, as in
        training.
        """
        if messages[0]["role"] == "system" and not self._keeps_system:
            system, first, *rest = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        return self._rendered(messages)

    @cached_property
    def _keeps_system(self) -> bool:
        """Whether the template itself has a place for a system message.

        Where it has none llama.cpp puts the text before the user's without anything but white space between.
        """
        system, user = _PROBE
        try:
            text = self._rendered([{"role": "system", "content": system}, {"role": "user", "content": user}])
        except ExportError:  # a template may also refuse
            return False
        before_user, found, _ = text.partition(user)
        return bool(found) and bool(before_user.rpartition(system)[2].strip()) and system in before_user

    def _rendered(self, messages: list[Message]) -> str:
        return self._post("/apply-template", {"messages": messages})["prompt"]

    def complete(self, prompt_ids: Sequence[int], max_tokens: int) -> Answer:
        """Answer greedily until a stop token or ``max_tokens``. Special tokens are left out of the text."""
        body = {"prompt": prompt_ids, "n_predict": max_tokens, "temperature": 0, "return_tokens": True}
        reply = self._post("/completion", body | {"cache_prompt": True})
        stopped = reply["stop_type"] != "limit"
        return Answer(
            text=reply["content"],
            tokens=reply["tokens"],
            completion_tokens=reply["tokens_predicted"] - stopped,
            finish_reason="stop" if stopped else "length",
        )

    def write(self, prompt_ids: Sequence[int], max_tokens: int, **sampling: float) -> Generator[Piece]:
        """Like complete, piece by piece; closing the generator ends the answer.

        Args:
            prompt_ids: The prompt.
            max_tokens: At most.
            sampling: llama.cpp's own parameters, such as temperature, top_p and seed.
        """
        body = {"prompt": prompt_ids, "n_predict": max_tokens, "stream": True, "cache_prompt": True, **sampling}
        with closing(self._connection()) as connection:
            response = self._answered(connection, "/completion", body)
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                piece: dict[str, Any] = json.loads(line[len(b"data: ") :])
                stopped = piece.get("stop_type", "limit") != "limit" if piece.get("stop") else None
                yield Piece(piece["content"], piece.get("tokens_predicted", 0) - bool(stopped), stopped)

    def likeliest(self, ids: Sequence[int], count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The tokens most likely to follow ``ids``, likeliest first: their ids, and natural logarithms of probabilities."""
        # The server leaves the distribution out when it samples a piece of a character. It reports what the model
        # gave before the bias, so any whole token may be forced.
        whole_token = self.tokenize("a")[-1]
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": True}
        reply = self._post("/completion", body | {"logit_bias": [[whole_token, _FORCED]]})
        entries = reply["completion_probabilities"][0]["top_logprobs"]
        return np.array([entry["id"] for entry in entries]), np.array([entry["logprob"] for entry in entries])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with closing(self._connection()) as connection:
            return json.loads(self._answered(connection, path, body).read())

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, timeout=_ANSWER_TIMEOUT_S)  # never through a proxy

    def _answered(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any]
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        connection.request("POST", path, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            response.read()
            raise ExportError(
                f"llama.cpp refused a request about the exported student (status {response.status}).",
                next_step="Look into the job's log; the fused model is not affected.",
            )
        return response
