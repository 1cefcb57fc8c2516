"""Asking a teacher over real HTTP, on both wire formats: what is answered, declined, stopped, retried and remembered."""

import asyncio
import json
import logging
import random
import time

import pytest

from nanodistill_mcp.demo.wire import Breaks, Fails, Refuses, Says, WireReply, WireRequest
from nanodistill_mcp.errors import ConfigurationError, TeacherError
from nanodistill_mcp.teacher.answers import NewInputs, PolicyDraft, WorkedSolution
from nanodistill_mcp.teacher.client import RowDeclined
from tests.teacher.conftest import BAD, GOOD, SECRET, Desk, question, questions

FENCED = Says('Here it is, as asked for {"task"}:\n```json\n{"solution": "Add.", "answer": "4"}\n```\nAnything else?')


async def declined(desk: Desk) -> RowDeclined:
    """How a first question is declined."""
    async with desk.teacher() as teacher:
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution)
    return caught.value


async def stopped(desk: Desk, kind: type[Exception]) -> str:
    """What a stage that stops at its first question says."""
    async with desk.teacher() as teacher:
        with pytest.raises(kind) as caught:
            await teacher.ask(question(), WorkedSolution)
        sent = len(desk.requests)
        with pytest.raises(kind):
            await teacher.ask(question("What is 3 + 2?"), WorkedSolution)
    assert len(desk.requests) == sent, "nothing more is sent once the stage has stopped"
    return str(caught.value)


async def test_an_answer_comes_back_typed_and_priced(desk: Desk) -> None:
    """The plain case, and what every other case is measured against."""
    desk.answers(Says({"solution": "Add.", "answer": "4"}, input_tokens=1000, output_tokens=100))

    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), WorkedSolution)

    assert answer.value == WorkedSolution(solution="Add.", answer="4")
    assert answer.cost_usd == pytest.approx(1000 * 3e-6 + 100 * 15e-6)
    assert not answer.replayed
    assert [record["verdict"] for record in desk.records("verdict")] == ["valid"]
    assert desk.requests[0].schema_name == "WorkedSolution"
    assert desk.requests[0].body["max_tokens"] == 2048


async def test_every_answer_shape_reaches_the_wire_under_its_name(desk: Desk) -> None:
    """The demo's teacher and a reader of the wire tell questions apart by the schema's name."""
    desk.script = lambda _: Says({"inputs": ["a", "b"]})

    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), NewInputs)
        with pytest.raises(RowDeclined):
            await teacher.ask(question(), PolicyDraft)

    assert answer.value.inputs == ["a", "b"]
    assert [request.schema_name for request in desk.requests[:2]] == ["NewInputs", "PolicyDraft"]
    assert desk.requests[0].schema is not None


async def test_text_that_looks_like_a_template_is_sent_as_it_is(desk: Desk) -> None:
    """A library that renders templates would turn a user's `{{ 7*7 }}` into 49, or worse."""
    async with desk.teacher() as teacher:
        await teacher.ask(question("{{ 7*7 }} {% raw %} {input}"), WorkedSolution)

    assert "{{ 7*7 }} {% raw %} {input}" in desk.requests[0].user


async def test_an_unreadable_answer_is_asked_for_once_more_and_both_are_paid(desk: Desk) -> None:
    """One re-ask repairs most slips; every attempt has to show in the cost."""
    desk.answers(BAD, GOOD)

    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), WorkedSolution)

    assert answer.value.answer == "4"
    assert [request.turns for request in desk.requests] == [1, 3]
    assert [record["verdict"] for record in desk.records("verdict")] == ["invalid", "valid"]
    assert answer.cost_usd == pytest.approx(sum(record["cost_usd"] for record in desk.records("answer")))


async def test_an_answer_that_stays_unreadable_costs_two_calls_and_declines_the_row(desk: Desk) -> None:
    """Libraries ask four times by default; each is paid for."""
    desk.answers(GOOD, then=BAD)

    async with desk.teacher() as teacher:
        await teacher.ask(question("Warm up."), WorkedSolution)
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution)

    assert caught.value.reason == "invalid"
    assert len(desk.requests) == 1 + 2
    assert "Two and two" not in json.dumps(desk.records("verdict")), "a verdict holds our words only"


async def test_a_fenced_answer_with_chatter_is_read_without_asking_again(desk: Desk) -> None:
    """Small local models fence their JSON whatever they are told."""
    desk.answers(FENCED)

    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), WorkedSolution)

    assert answer.value.answer == "4"
    assert len(desk.requests) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Fails("too_long"), "context"),
        (Fails("policy"), "filtered"),
    ],
    ids=["context", "policy"],
)
async def test_what_asking_again_cannot_mend_costs_one_request(desk: Desk, reply: WireReply, reason: str) -> None:
    """The provider does not take this question; other words for the answer change nothing."""
    desk.answers(then=reply)

    row = await declined(desk)

    assert row.reason == reason
    assert len(desk.requests) == 1


async def test_a_content_filter_declines_the_row_even_when_the_text_could_be_read(openai_desk: Desk) -> None:
    """A filtered answer is cut somewhere; that it parses means nothing."""
    openai_desk.answers(then=Says({"solution": "Add.", "answer": "4"}, ending="filtered"))

    assert (await declined(openai_desk)).reason == "filtered"
    assert len(openai_desk.requests) == 2


async def test_an_empty_answer_is_asked_for_once_more(desk: Desk) -> None:
    """Local servers answer with nothing now and then."""
    desk.answers(GOOD, then=Says(""))

    async with desk.teacher() as teacher:
        await teacher.ask(question("Warm up."), WorkedSolution)
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution)

    assert caught.value.reason == "empty"
    assert len(desk.requests) == 1 + 2


async def test_a_refused_key_stops_the_stage_and_says_where_a_key_goes(desk: Desk) -> None:
    """Clients do not pass the shell's environment, so a key exported there is the usual mistake."""
    desk.answers(then=Fails("auth"))

    text = await stopped(desk, ConfigurationError)

    assert len(desk.requests) == 1
    assert "DESK_KEY" in text
    assert "`env`" in text
    assert "sk-test" not in text, "the provider's words stay out"


async def test_a_key_that_is_not_set_stops_the_stage_before_any_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing should be sent that is bound to fail."""
    monkeypatch.setenv("DESK_KEY", "")

    async with desk.teacher() as teacher:
        with pytest.raises(ConfigurationError, match="DESK_KEY"):
            await teacher.ask(question(), WorkedSolution)

    assert desk.requests == []
    monkeypatch.setenv("DESK_KEY", SECRET)


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (Fails("no_credit"), TeacherError, "no credit or quota"),
        (Fails("forbidden"), ConfigurationError, "may not use the model"),
        (Fails("no_model"), ConfigurationError, "does not know the model"),
    ],
    ids=["no_credit", "forbidden", "no_model"],
)
async def test_what_only_people_can_mend_stops_the_stage_at_once(
    desk: Desk, failure: Fails, error: type[Exception], words: str
) -> None:
    """An account without credit answers 429 on one wire and 400 on the other; neither is worth a retry."""
    desk.answers(then=failure)

    text = await stopped(desk, error)

    assert words in text
    assert len(desk.requests) == 1


async def test_sixteen_questions_meet_a_refused_key_once(desk: Desk) -> None:
    """The first question goes alone, so that a wrong key is not tried sixteen times."""
    desk.answers(then=Fails("auth"))

    async with desk.teacher() as teacher:
        asked = [teacher.ask(prompt, WorkedSolution) for prompt in questions(16)]
        results = await asyncio.gather(*asked, return_exceptions=True)

    assert all(isinstance(result, ConfigurationError) for result in results)
    assert len(desk.requests) == 1


async def test_a_rate_limit_pauses_all_questions_for_as_long_as_it_says(desk: Desk) -> None:
    """Retry-After is the provider's word; asking on through it earns longer waits."""
    times: list[float] = []
    limited = Fails("rate_limit", headers={"retry-after": "1"})

    def script(_: WireRequest) -> WireReply:
        times.append(time.monotonic())
        return limited if len(times) == 2 else GOOD

    desk.script = script
    async with desk.teacher() as teacher:
        for prompt in questions(2):
            await teacher.ask(prompt, WorkedSolution)
        await asyncio.gather(*[teacher.ask(question(f"Then {number}."), WorkedSolution) for number in range(4)])

    assert times[2] - times[1] >= 1.0
    assert len(times) == 7


@pytest.mark.parametrize(
    "trouble", [Fails("server"), Fails("overloaded"), Breaks("html"), Breaks("half_json"), Breaks("reset")], ids=str
)
async def test_trouble_that_passes_is_waited_out(desk: Desk, trouble: WireReply) -> None:
    """Providers fail for seconds all the time; a stage must not."""
    desk.answers(trouble, trouble)

    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), WorkedSolution)

    assert answer.value.answer == "4"
    assert len(desk.requests) == 3
    assert len(desk.records("error")) == 2


async def test_trouble_that_stays_stops_the_stage_after_a_few_attempts(desk: Desk) -> None:
    """A provider that is down must not be asked for ever."""
    desk.answers(then=Fails("server"))

    text = await stopped(desk, TeacherError)

    assert "keeps failing (HTTP 500)" in text
    assert len(desk.requests) == 6


async def test_a_question_that_alone_breaks_the_server_is_declined_while_others_go_on(openai_desk: Desk) -> None:
    """One input that crashes a local server must not end a stage of five hundred."""
    openai_desk.script = lambda request: Breaks("reset") if "cursed" in request.user else GOOD

    async with openai_desk.teacher(backoff_s=0.03) as teacher:
        await teacher.ask(question("before"), WorkedSolution)
        cursed = asyncio.create_task(teacher.ask(question("cursed"), WorkedSolution))
        async with asyncio.timeout(10):
            while len(openai_desk.requests) < 3:  # its first attempt has failed
                await asyncio.sleep(0.001)
        await teacher.ask(question("meanwhile"), WorkedSolution)
        with pytest.raises(RowDeclined) as caught:
            await cursed
        after = await teacher.ask(question("after"), WorkedSolution)

    assert caught.value.reason == "empty"
    assert after.value.answer == "4"


async def test_an_address_where_nobody_listens_is_named(desk: Desk) -> None:
    """LiteLLM calls a refused connection an internal server error of the provider."""
    endpoint = desk.endpoint(api_base="http://127.0.0.1:9")

    async with desk.teacher(endpoint=endpoint) as teacher:
        with pytest.raises(TeacherError, match=r"no connection to the teacher at 127\.0\.0\.1:9"):
            await teacher.ask(question(), WorkedSolution)

    assert {record["error"] for record in desk.records("error")} == {"unreachable"}
    assert {record["cost_usd"] for record in desk.records("error")} == {0.0}


@pytest.mark.parametrize("stall", [Says("late", delay_s=60), Breaks("trickle")], ids=["silence", "trickle"])
async def test_a_stalled_request_ends_at_its_deadline_and_is_settled_at_its_worst_case(
    desk: Desk, stall: WireReply
) -> None:
    """A byte now and then keeps a read timeout from ever firing; and what timed out may have been billed."""
    desk.answers(stall)

    async with desk.teacher(timeout_s=0.3) as teacher:
        answer = await teacher.ask(question(), WorkedSolution)

    intent, error = desk.records("intent")[0], desk.records("error")[0]
    assert error["error"] == "timeout"
    assert error["cost_usd"] == intent["max_usd"] > 0
    assert answer.cost_usd == pytest.approx(error["cost_usd"] + desk.records("answer")[0]["cost_usd"])


async def test_no_more_requests_are_in_flight_than_allowed(desk: Desk) -> None:
    """Providers count connections, and small servers fall over."""
    desk.answers(then=Says(GOOD.value, delay_s=0.1))

    async with desk.teacher(concurrency=5) as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(40)])

    assert desk.server.peak_in_flight == 5


async def test_the_worker_is_asked_before_every_request(openai_desk: Desk) -> None:
    """That is where a job pauses and where it is cancelled."""
    asked: list[int] = []

    class CancelledByUserError(Exception):
        pass

    async def before_call() -> None:
        asked.append(len(openai_desk.requests))
        if len(asked) > 2:
            raise CancelledByUserError

    openai_desk.answers(BAD, GOOD)
    async with openai_desk.teacher(before_call=before_call) as teacher:
        await teacher.ask(question(), WorkedSolution)
        with pytest.raises(CancelledByUserError):
            await teacher.ask(question("Another."), WorkedSolution)

    assert asked == [0, 1, 2]


async def test_a_cancelled_question_still_lands_in_the_journal(desk: Desk) -> None:
    """The request has left and is paid for; only its caller is gone."""
    desk.answers(then=Says(GOOD.value, delay_s=0.3))

    async with desk.teacher() as teacher:
        asking = asyncio.create_task(teacher.ask(question(), WorkedSolution))
        async with asyncio.timeout(10):
            while not desk.requests:
                await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    assert len(desk.records("answer")) == 1
    async with desk.teacher() as teacher:
        answer = await teacher.ask(question(), WorkedSolution)
    assert answer.replayed
    assert len(desk.requests) == 1


async def test_no_key_is_ever_written_down(desk: Desk) -> None:
    """The journal is an artifact that people share."""
    desk.answers(BAD, Fails("server"), Refuses())

    await declined(desk)

    assert any(SECRET in value for value in desk.requests[0].headers.values())
    for path in desk.folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


async def test_a_provider_s_key_is_not_sent_to_another_address(
    openai_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint without a key of its own must not receive the one that lies in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")

    async with openai_desk.teacher(endpoint=openai_desk.endpoint(api_key_env="")) as teacher:
        await teacher.ask(question(), WorkedSolution)

    assert "sk-of-openai" not in json.dumps(openai_desk.requests[0].headers)


async def test_a_storm_of_faults_leaves_every_question_answered_and_none_paid_twice(desk: Desk) -> None:
    """Three in ten requests fail in some way; what is answered is answered once."""
    faults: list[WireReply] = [
        Fails("server"),
        Fails("overloaded"),
        Fails("rate_limit", headers={"retry-after": "0"}),
        Breaks("reset"),
        Breaks("half_json"),
        Breaks("html"),
        BAD,
    ]
    dice = random.Random(7)
    desk.script = lambda _: dice.choice(faults) if dice.random() < 0.3 else GOOD

    async with desk.teacher(concurrency=16) as teacher:
        asked = [teacher.ask(prompt, WorkedSolution) for prompt in questions(120)]
        results = await asyncio.gather(*asked, return_exceptions=True)

    unread = [result for result in results if isinstance(result, RowDeclined)]
    assert all(result.reason == "invalid" for result in unread), "two unreadable answers in a row"
    assert len(results) - len(unread) == len([r for r in desk.records("verdict") if r["verdict"] == "valid"])
    assert not [result for result in results if isinstance(result, Exception) and not isinstance(result, RowDeclined)]


async def test_nothing_is_printed_whatever_happens(
    desk: Desk, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's log is an artifact; LiteLLM would write prompts to it, and Instructor the teacher's words."""
    with caplog.at_level(logging.INFO):
        desk.answers(BAD, Fails("server"), GOOD, then=Fails("auth"))
        async with desk.teacher() as teacher:
            await teacher.ask(question("a very private question"), WorkedSolution)
            with pytest.raises(ConfigurationError):
                await teacher.ask(question(), WorkedSolution)

    written = "".join(capfd.readouterr())
    assert "private" not in written + caplog.text
    assert "Two and two" not in written + caplog.text
    assert written == ""


async def test_a_second_teacher_in_the_same_process_can_ask_too(desk: Desk) -> None:
    """The first one closes its connections when it is done."""
    for prompt in questions(2):
        async with desk.teacher() as teacher:
            await teacher.ask(prompt, WorkedSolution)

    assert len(desk.requests) == 2


async def test_an_anthropic_address_may_end_in_v1(desk: Desk) -> None:
    """People copy addresses with it; LiteLLM would ask for /v1/v1/messages."""
    async with desk.teacher(endpoint=desk.endpoint(api_base=desk.server.openai_url)) as teacher:
        assert (await teacher.ask(question(), WorkedSolution)).value.answer == "4"
