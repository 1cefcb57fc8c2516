"""The demo's teacher answers the pipeline's own prompts in shape, and always the same way."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import NewExamples, PolicyDraft, WorkedSolution

EXAMPLES = [{**seed, "thinking": "..."} for seed in task.seeds()]


def _ask(prompt: prompts.Prompt, schema_name: str) -> dict[str, object]:
    return teacher.answer(prompt.system, prompt.user, schema_name)


def test_a_message_is_solved_with_and_without_a_policy() -> None:
    """Seeds are solved before there is a policy, generated messages after."""
    for policy in ("", "{}"):
        given = WorkedSolution.model_validate(
            _ask(prompts.solve(task.INSTRUCTION, "Where is my refund, you have my card?", policy), "WorkedSolution")
        )
        assert given.answer == "billing"
        assert "refund -> money" in given.solution


def test_the_policy_lists_the_queues_and_takes_feedback_in() -> None:
    """The checker is what makes agreement measurable."""
    given = PolicyDraft.model_validate(
        _ask(prompts.extract_policy(task.INSTRUCTION, EXAMPLES, "Be brief."), "PolicyDraft")
    )
    assert given.checker == "choice"
    assert given.choices == list(task.QUEUES)
    assert "Be brief." in given.key_constraints
    assert given.input_length_range[0] < given.input_length_range[1]


def test_new_examples_come_in_the_number_asked_for_and_differ_between_requests() -> None:
    """Otherwise amplify would meet its own duplicates only."""
    batches = [
        NewExamples.model_validate(
            _ask(prompts.generate(task.INSTRUCTION, "{}", task.seeds(), [f"avoid {n}"], 12), "NewExamples")
        ).examples
        for n in range(5)
    ]
    assert [len(batch) for batch in batches] == [12] * 5
    assert all({example.output for example in batch} == set(task.QUEUES) for batch in batches)
    assert len({example.input for batch in batches for example in batch}) > 55


def test_asking_twice_gives_the_same_answer() -> None:
    """Calls are told apart by their content, so the answer may depend on nothing else."""
    prompt = prompts.generate(task.INSTRUCTION, "{}", task.seeds(), [], 6)
    assert _ask(prompt, "NewExamples") == _ask(prompt, "NewExamples")


@pytest.mark.parametrize(
    "user",
    [
        "",
        "What is 2 + 2?",
        "<examples-000000>\nnot json\n[]\n</examples-000000>",
        "<count-000000>\nmany\n</count-000000>",
    ],
)
def test_a_request_of_another_kind_is_still_answered_in_shape(user: str) -> None:
    """A user may point another run at the demo's teacher."""
    WorkedSolution.model_validate(teacher.answer("", user, "WorkedSolution"))
    PolicyDraft.model_validate(teacher.answer("", user, "PolicyDraft"))
    NewExamples.model_validate(teacher.answer("", user, "NewExamples"))
    with pytest.raises(ValueError, match="Unheard"):
        teacher.answer("", user, "Unheard")


def test_the_policy_of_another_task_claims_no_queues() -> None:
    """Choices that are not the task's would reject every right answer."""
    rows = [{"input": "2 + 2", "thinking": "", "output": "4"}]
    given = PolicyDraft.model_validate(_ask(prompts.extract_policy("Add.", rows), "PolicyDraft"))
    assert (given.checker, given.choices, given.task_description) == ("normalized", [], "Add.")


def test_the_served_teacher_answers_over_http_on_the_loopback() -> None:
    """The demo's calls go through the provider's client like any other."""
    prompt = prompts.solve(task.INSTRUCTION, "The parcel is late.")
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "WorkedSolution", "schema": WorkedSolution.model_json_schema()},
    }
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    body = json.dumps({"model": "demo", "messages": messages, "response_format": schema})
    with teacher.serving() as base_url:
        address = urlsplit(base_url)
        assert address.hostname == "127.0.0.1"
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("POST", f"{address.path}/chat/completions", body, {"Content-Type": "application/json"})
        reply = json.loads(connection.getresponse().read())
        connection.close()
    given = WorkedSolution.model_validate_json(reply["choices"][0]["message"]["content"])
    assert given.answer == "delivery"
