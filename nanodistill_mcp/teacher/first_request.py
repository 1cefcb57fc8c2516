"""A question's first request as Instructor prepares it, prepared once for all questions of one form and shape.

Instructor prepares every request anew and reads every answer a second time, for a tenth of all CPU. Its request differs
from one question to the next only in the question's own words. So Instructor prepares one with marks in their place.
"""

import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from nanodistill_mcp.teacher.capabilities import Mode
from nanodistill_mcp.teacher.libraries import instructor, prepared

_SYSTEM, _USER = (f"{word}-{secrets.token_hex(16)}" for word in ("system", "user"))


@dataclass(frozen=True)
class FirstRequest:
    """What Instructor makes of a question, with marks where the question stands."""

    messages: tuple[tuple[str, str], ...]
    """Roles and texts."""
    further: str
    """All other parameters, as JSON: whoever gets them may change them."""

    def filled(self, system: str, user: str) -> dict[str, Any]:
        """The request of one question."""
        return {
            "messages": [
                {"role": role, "content": user.join(system.join(part.split(_SYSTEM)) for part in text.split(_USER))}
                for role, text in self.messages
            ],
            **json.loads(self.further),
        }


async def first_request(mode: Mode, answer_type: type[BaseModel]) -> FirstRequest | None:
    """Have Instructor prepare a request. None when it comes out in a form that is not known here."""
    from instructor.core import InstructorError

    taken: dict[str, Any] = {}

    async def take(**request: Any) -> None:
        taken.update(request)
        raise _TakenError

    client: Any = instructor().from_litellm(take, mode=instructor().Mode[mode.upper()])
    with contextlib.suppress(InstructorError, _TakenError):
        await client.chat.completions.create(
            response_model=prepared(answer_type),
            messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}],
            max_retries=0,
            strict=False,
        )
    messages: list[dict[str, Any]] = taken.pop("messages", [])
    texts = [message["content"] for message in messages]
    if any(message.keys() != {"role", "content"} for message in messages) or not all(isinstance(t, str) for t in texts):
        return None
    if not (any(_SYSTEM in text for text in texts) and any(_USER in text for text in texts)):
        return None
    try:
        further = json.dumps(taken)
    except TypeError:
        return None
    return FirstRequest(tuple((message["role"], message["content"]) for message in messages), further)


class _TakenError(Exception):
    """The request is prepared, and is not to be sent."""
