"""Follows next_step from create_run to the end with one of four clients, each in an environment of its own.

python follow.py CLIENT < JSON {"command": [...], "env": {...}, "first": {...}}

It imports nothing of this package and prints the tools it called, one a line, with what the client made of the reply.
"""

# The clients lie in other environments, where the type checker does not look.
# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Reply = dict[str, Any]
Call = Callable[[str, dict[str, Any]], Awaitable[Any]]

_MAX_CALLS = 60
_LAST = "compare_models"


@asynccontextmanager
async def mcp_1(command: list[str], env: dict[str, str]) -> AsyncGenerator[Call]:
    """The SDK's former major version, which shakes hands."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async with (
        stdio_client(StdioServerParameters(command=command[0], args=command[1:], env=env)) as (reads, writes),
        ClientSession(reads, writes) as session,
    ):
        await session.initialize()
        yield session.call_tool


@asynccontextmanager
async def fastmcp(command: list[str], env: dict[str, str]) -> AsyncGenerator[Call]:
    """FastMCP's client."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    async with Client(StdioTransport(command=command[0], args=command[1:], env=env)) as client:
        yield lambda tool, arguments: client.call_tool(tool, arguments, raise_on_error=False)


@asynccontextmanager
async def openai_agents(command: list[str], env: dict[str, str]) -> AsyncGenerator[Call]:
    """The OpenAI Agents SDK's server for its agents."""
    from agents.mcp import MCPServerStdio

    parameters = {"command": command[0], "args": command[1:], "env": env}
    async with MCPServerStdio(params=parameters, client_session_timeout_seconds=60) as server:
        await server.list_tools()
        yield server.call_tool


@asynccontextmanager
async def pydantic_ai(command: list[str], env: dict[str, str]) -> AsyncGenerator[Call]:
    """Pydantic AI's toolset."""
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    async with MCPToolset(StdioTransport(command=command[0], args=command[1:], env=env)) as toolset:
        await toolset.list_tools()
        yield toolset.direct_call_tool


CLIENTS = {"mcp": mcp_1, "fastmcp": fastmcp, "openai-agents": openai_agents, "pydantic-ai": pydantic_ai}


def read(result: Any) -> Reply:
    """The reply in a client's result, whichever shape the client gives it."""
    for name in ("structured_content", "structuredContent"):
        if isinstance(found := getattr(result, name, None), dict):
            return found
    for part in result if isinstance(result, list) else [result]:
        if isinstance(part, dict):
            return part
        if isinstance(part, str) and part.startswith("{"):
            return json.loads(part)
    raise ValueError(f"no reply in {str(result)[:500]}")


async def follow(client: str, command: list[str], env: dict[str, str], first: dict[str, Any]) -> None:
    """Call create_run, then always what the last reply names."""
    step: Reply = {"tool": "create_run", "arguments": first}
    async with CLIENTS[client](command, env) as call:
        for _ in range(_MAX_CALLS):
            if step["tool"] == _LAST:
                return
            result = await call(step["tool"], step["arguments"])
            print(step["tool"], type(result).__name__, flush=True)
            step = read(result)["next_step"]
    raise TimeoutError("it does not end")


if __name__ == "__main__":
    given = json.load(sys.stdin)
    asyncio.run(follow(sys.argv[1], given["command"], given["env"], given["first"]))
