"""LiteLLM and Instructor, imported late, offline and silent.

Importing LiteLLM takes three seconds and, left alone, fetches a price map, reads the nearest .env file and writes to
standard output. So it is imported inside the worker only, after its environment was prepared.
"""

import gc
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import BaseModel

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",  # else a .env file beside the environment may redirect a key to another host
}
_LOUD = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")

PLAYED_OPENAI = {
    "id": "played",
    "object": "chat.completion",
    "created": 0,
    "model": "played",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
"""The shortest answer in OpenAI's form, for a request that LiteLLM is to write and nobody is to get."""


def prepare_environment() -> None:
    """Set what LiteLLM reads while it is imported. Call it before anything imports it."""
    os.environ.update(_ENVIRONMENT)
    os.environ.pop("LITELLM_LOG", None)


@cache
def litellm() -> Any:
    """LiteLLM, silenced: its log handlers write prompts to standard output at lower levels."""
    prepare_environment()
    with _uncollected():
        import litellm as module

    module.suppress_debug_info = True
    for name in _LOUD:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    return module


@cache
def instructor() -> Any:
    """Instructor, silenced: it logs failed attempts with the model's text in them."""
    with _uncollected():
        import instructor as module

    logging.getLogger("instructor").setLevel(logging.CRITICAL)
    return module


@contextmanager
def _uncollected() -> Generator[None]:
    """Import without the garbage collector, which would walk a million lasting objects again and again: a quarter of the time.

    What was imported stays, so no later collection looks at it either.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@cache
def prepared(answer_type: type[BaseModel]) -> type[BaseModel]:
    """An answer's shape as Instructor would make it ready for every call anew: its class and its schema, a sixth of the CPU."""
    ready = instructor().openai_schema(answer_type)
    schema: dict[str, Any] = ready.model_json_schema()

    def model_json_schema(_: type[BaseModel], *args: Any, **settings: Any) -> dict[str, Any]:
        return answer_type.model_json_schema(*args, **settings) if args or settings else deepcopy(schema)

    ready.model_json_schema = classmethod(model_json_schema)
    return ready


async def close_connections() -> None:
    """Close LiteLLM's connections, and have it forget them: it would go on using closed ones."""
    await litellm().close_litellm_async_clients()
    litellm().in_memory_llm_clients_cache.flush_cache()
