"""The clients that bench/teacher.py compares, each in a process of its own.

    python bench/teacher_clients.py CLIENT PORT < cells

reads cells, one JSON object a line ({"latency_ms": 500, "at_once": 32, "calls": 256}), and prints for each what it took.
Every client asks the same questions and checks every answer against the same shape. Curator and distilabel are run by a
Python that has them, which need not have anything of ours.
"""
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS="True",
    LITELLM_MODE="PRODUCTION",
    NANODISTILL_BENCH_KEY="none-needed",
    OPENAI_API_KEY="none-needed",
    TELEMETRY_ENABLED="false",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)
from pydantic import BaseModel, Field

TASK = (
    "Solve the word problem. Give short, concrete steps, one a line, that lead to the answer, check the result against the "
    "question once more, and give the final number alone as the answer, without a unit and without words around it. "
)
SYSTEM = TASK * 3


class WorkedSolution(BaseModel):
    """A worked solution of one input."""

    solution: str = Field(
        min_length=1, description="The worked solution: short, concrete steps that lead to the answer."
    )
    answer: str = Field(min_length=1, description="The final answer alone, in exactly the form the task asks for.")


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    latency_ms: int
    at_once: int
    calls: int


class Meter:
    """Wall clock and CPU of this process, all its threads included."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def taken(self, answers: int) -> dict[str, float]:
        used_s = time.process_time() - self._cpu_s
        wall_s = time.perf_counter() - self._wall_s
        return {"answers": answers, "wall_s": wall_s, "cpu_s": used_s, "rss_mb": rss_mb()}


def rss_mb() -> float:
    """This process's memory now; where the kernel does not say it, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


_asked = iter(range(10**9))


def questions(count: int) -> list[str]:
    """That many questions, none of which was asked before."""
    return [
        f"Question {number}: what is {number} + 2, and is it even?" for number in (next(_asked) for _ in range(count))
    ]


def messages(text: str) -> list[Any]:
    """A question as sent by the clients that are not ours."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


Ask = Callable[[str], Awaitable[str]]


async def side_by_side(ask: Ask, cell: Cell) -> dict[str, float]:
    """Ask with a fixed number in flight; the connections are made beforehand."""
    slots = asyncio.Semaphore(cell.at_once)

    async def one(text: str) -> str:
        async with slots:
            return await ask(text)

    await asyncio.gather(*map(one, questions(cell.at_once)))
    meter = Meter()
    answers = await asyncio.gather(*map(one, questions(cell.calls)))
    taken = meter.taken(len(answers))
    assert all(answer == "42" for answer in answers)
    return taken


async def aiohttp_client(base: str, cell: Cell) -> dict[str, float]:
    """What a hand-written client costs that trusts the network, the provider and its own bookkeeping."""
    import aiohttp

    form = {
        "type": "json_schema",
        "json_schema": {"name": "WorkedSolution", "schema": WorkedSolution.model_json_schema()},
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(text: str) -> str:
            body = {"model": "bench", "messages": messages(text), "max_tokens": 2048, "response_format": form}
            async with session.post(f"{base}/chat/completions", json=body) as response:
                content = (await response.json())["choices"][0]["message"]["content"]
            return WorkedSolution.model_validate_json(content).answer

        return await side_by_side(ask, cell)


async def litellm_client(base: str, cell: Cell) -> dict[str, float]:
    """LiteLLM alone, its answer checked by hand."""
    library = quiet_litellm()

    async def ask(text: str) -> str:
        response = await library.acompletion(
            model="openai/bench",
            api_base=base,
            api_key="none-needed",
            messages=messages(text),
            max_tokens=2048,
            max_retries=0,
            response_format=WorkedSolution,
        )
        return WorkedSolution.model_validate_json(response.choices[0].message.content).answer

    return await side_by_side(ask, cell)


async def instructor_client(base: str, cell: Cell) -> dict[str, float]:
    """LiteLLM and Instructor, with neither journal nor budget."""
    import instructor

    client: Any = instructor.from_litellm(quiet_litellm().acompletion, mode=instructor.Mode.JSON_SCHEMA)

    async def ask(text: str) -> str:
        found: WorkedSolution = await client.chat.completions.create(
            model="openai/bench",
            api_base=base,
            api_key="none-needed",
            messages=messages(text),
            max_tokens=2048,
            response_model=WorkedSolution,
        )
        return found.answer

    return await side_by_side(ask, cell)


async def serial_client(base: str, cell: Cell) -> dict[str, float]:
    """One call after the other, as a loop over the seeds makes them."""
    import instructor

    client: Any = instructor.from_litellm(quiet_litellm().completion, mode=instructor.Mode.JSON_SCHEMA)

    def ask(text: str) -> str:
        return client.chat.completions.create(
            model="openai/bench",
            api_base=base,
            api_key="none-needed",
            messages=messages(text),
            max_tokens=2048,
            response_model=WorkedSolution,
        ).answer

    ask(questions(1)[0])
    meter = Meter()
    assert all(ask(text) == "42" for text in questions(cell.calls))
    return meter.taken(cell.calls)


async def ours(base: str, cell: Cell) -> dict[str, float]:
    """Our Teacher as a stage opens it: journal and ledger on disk, budget, a pace that has to be found first."""
    from nanodistill_mcp.teacher.answers import WorkedSolution as Shape

    with tempfile.TemporaryDirectory() as folder:
        async with our_teacher(base, cell.at_once, Path(folder)) as (teacher, prompt):

            async def ask(text: str) -> str:
                return (await teacher.ask(prompt(text), Shape)).value.answer

            ramp = Meter()
            warm = 1 + 4 * cell.at_once  # it doubles once a round, from four
            answers = await asyncio.gather(*map(ask, questions(warm)))
            ramp_s = ramp.taken(0)["wall_s"]
            meter = Meter()
            answers = await asyncio.gather(*map(ask, questions(cell.calls)))
            taken = meter.taken(len(answers))
        assert all(answer == "42" for answer in answers)
        return {**taken, "ramp_s": ramp_s - warm / cell.at_once * cell.latency_ms / 1000}


@contextlib.asynccontextmanager
async def our_teacher(base: str, at_once: int, folder: Path) -> AsyncGenerator[tuple[Any, Any]]:
    """Our Teacher with all that a stage gives it, and what makes a prompt of a question."""
    from nanodistill_mcp.runs.journal import Journal
    from nanodistill_mcp.runs.records import Spend
    from nanodistill_mcp.settings import TeacherEndpoint
    from nanodistill_mcp.teacher import prompts
    from nanodistill_mcp.teacher.budget import Budget, Caps
    from nanodistill_mcp.teacher.capabilities import Capabilities
    from nanodistill_mcp.teacher.client import Teacher
    from nanodistill_mcp.teacher.ledger import DayLedger

    async def not_paused() -> None:
        """A job that is neither paused nor cancelled."""

    endpoint = TeacherEndpoint(
        name="bench", model="openai/bench", api_base=base, api_key_env="NANODISTILL_BENCH_KEY", usd_per_mtok=(2, 10)
    )
    with Journal.open(folder / "calls.jsonl") as journal:
        teacher = Teacher(
            endpoint,
            journal=journal,
            budget=Budget(Caps(usd=1e6), Spend(), (2, 10), DayLedger(folder / "ledger", Caps(usd=1e6))),
            capabilities=Capabilities(folder / "capabilities.json"),
            stage="synthesize_cot",
            concurrency=at_once,
            before_call=not_paused,
        )
        async with teacher:
            yield teacher, functools.partial(prompts.solve, TASK)


async def distilabel_client(base: str, cell: Cell) -> dict[str, float]:
    """The OpenAILLM of distilabel with a structured output, asked side by side; its pipeline around it is left out."""
    from distilabel.models import OpenAILLM

    model = OpenAILLM(
        model="bench",
        base_url=base,
        api_key="none-needed",
        structured_output={"schema": WorkedSolution},
        generation_kwargs={"max_new_tokens": 2048},
    )
    model.load()

    async def ask(text: str) -> str:
        output = await model.agenerate(input=messages(text), max_new_tokens=2048)
        return WorkedSolution.model_validate_json(output["generations"][0]).answer

    return await side_by_side(ask, cell)


async def curator_client(base: str, cell: Cell) -> dict[str, float]:
    """Curator's own client for OpenAI's format, its request and response files included. Its limits are set out of reach."""
    return await asyncio.to_thread(_curator, base, cell)


def _curator(base: str, cell: Cell) -> dict[str, float]:
    from bespokelabs import curator

    class Solver(curator.LLM):
        response_format = WorkedSolution

        def prompt(self, row: dict[str, str]) -> list[dict[str, str]]:
            return messages(row["text"])

        def parse(self, row: dict[str, str], response: WorkedSolution) -> dict[str, str]:
            return {"text": row["text"], "answer": response.answer}

    limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**11}
    os.environ["OPENAI_BASE_URL"] = base  # given as a parameter, it asks the server first whether it knows schemas
    backend = {"max_concurrent_requests": cell.at_once, "api_key": "none-needed", **limits}
    solver = Solver(model_name="gpt-4o-mini", backend="openai", backend_params=backend)

    def solve(count: int) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            found: Any = solver([{"text": text} for text in questions(count)], working_dir=folder)
            return list(getattr(found, "dataset", found)["answer"])

    solve(4)
    meter = Meter()
    answers = solve(cell.calls)
    taken = meter.taken(len(answers))
    assert answers == ["42"] * cell.calls
    return taken


def quiet_litellm() -> Any:
    """LiteLLM without its feedback lines."""
    import litellm

    litellm.suppress_debug_info = True
    return litellm


@contextlib.contextmanager
def quietly() -> Generator[int]:
    """Keep a library's progress bars out of what this process reports; yields where to report."""
    report = os.dup(1)
    os.dup2(2, 1)
    try:
        yield report
    finally:
        os.close(report)


CLIENTS: dict[str, Callable[[str, Cell], Coroutine[Any, Any, dict[str, float]]]] = {
    "ours": ours,
    "aiohttp": aiohttp_client,
    "litellm": litellm_client,
    "instructor": instructor_client,
    "serial": serial_client,
    "curator": curator_client,
    "distilabel": distilabel_client,
}


def main() -> None:
    """Run the cells that come in; the first run of a client, which pays for imports, is not counted."""
    name, port = sys.argv[1:3]
    if name == "curator" and (found := importlib.util.find_spec("litellm")) and found.origin:
        # It would fetch its tokenizer; LiteLLM, which it installs, brings the same file.
        os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")
    client = CLIENTS[name]
    with quietly() as report:
        asyncio.run(client(f"http://127.0.0.1:{port}/1/v1", Cell(1, 4, 4)))
        for line in sys.stdin:
            cell = Cell(**json.loads(line))
            taken = asyncio.run(client(f"http://127.0.0.1:{port}/{cell.latency_ms}/v1", cell))
            os.write(report, json.dumps({**asdict(cell), **taken}).encode() + b"\n")


if __name__ == "__main__":
    main()
