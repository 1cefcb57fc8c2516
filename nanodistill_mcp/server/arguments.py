"""Arguments that several tools take, in the words an agent reads, and the server a call reached."""

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from nanodistill_mcp.server.app import App

Ctx = Context[App]


RunId = Annotated[str, Field(description="The name given to create_run; get_status() lists them.", max_length=64)]


Wait = Annotated[
    int, Field(description="Seconds to wait for its end before answering; it goes on either way.", ge=0, le=45)
]


Restart = Annotated[
    bool,
    Field(description="Archive what this stage and the later ones made, and do it again. Paid answers are reused."),
]


BudgetUsd = Annotated[
    float,
    Field(
        description="A new budget for the run in all, in dollars, for this stage and all later ones; 0 leaves it.", ge=0
    ),
]


NewCaps = Annotated[
    dict[str, int],
    Field(description="New caps for the run in all, by name: max_calls, max_total_tokens; 0 takes one away."),
]


def app_of(ctx: Ctx) -> App:
    """The server this call reached."""
    return ctx.request_context.lifespan_context
