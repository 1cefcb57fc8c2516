"""The demo's teacher answers the pipeline's own prompts in shape, and always the same way."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import Comparison, Derivation, DirectAnswer, NewInputs, PolicyDraft, WorkedSolution

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


CELLS = [{"answer": queue, "topic": "parcels"} for queue in (*task.QUEUES, *task.QUEUES)]


def test_new_inputs_come_one_a_cell_with_the_answer_it_names_and_differ_between_requests() -> None:
    """Otherwise amplify would meet its own duplicates only."""
    batches = [
        NewInputs.model_validate(
            _ask(prompts.generate(task.INSTRUCTION, "{}", task.seeds(), CELLS, [f"avoid {n}"]), "NewInputs")
        ).inputs
        for n in range(5)
    ]
    assert [[task.solve(text)[1] for text in batch] for batch in batches] == [[cell["answer"] for cell in CELLS]] * 5
    assert len({text for batch in batches for text in batch}) > 55


def test_asking_twice_gives_the_same_answer() -> None:
    """Calls are told apart by their content, so the answer may depend on nothing else."""
    prompt = prompts.generate(task.INSTRUCTION, "{}", task.seeds(), CELLS)
    assert _ask(prompt, "NewInputs") == _ask(prompt, "NewInputs")


def test_an_answer_it_would_not_give_is_explained_and_objected_to() -> None:
    """A seed the teacher got wrong is kept with a solution towards its own answer, and a person is told."""
    right = Derivation.model_validate(_ask(prompts.derive("Sort.", "Where is my parcel?", "delivery"), "Derivation"))
    assert (right.answer, right.objection) == ("delivery", "")
    wrong = Derivation.model_validate(_ask(prompts.derive("Sort.", "Where is my parcel?", "billing"), "Derivation"))
    assert wrong.answer == "billing"
    assert "delivery" in wrong.objection


@pytest.mark.parametrize(
    "user",
    [
        "",
        "What is 2 + 2?",
        "<examples-000000>\nnot json\n[]\n</examples-000000>",
        "<cells-000000>\nmany\n</cells-000000>",
    ],
)
def test_a_request_of_another_kind_is_still_answered_in_shape(user: str) -> None:
    """A user may point another run at the demo's teacher."""
    WorkedSolution.model_validate(teacher.answer("", user, "WorkedSolution"))
    PolicyDraft.model_validate(teacher.answer("", user, "PolicyDraft"))
    for shape in (NewInputs, DirectAnswer, Derivation, Comparison):
        shape.model_validate(teacher.answer("", user, shape.__name__))
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
