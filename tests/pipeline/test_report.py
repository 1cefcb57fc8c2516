"""A report says what the run's files say, leaves nothing out silently, and obeys nothing that others wrote."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nanodistill_mcp.figures.loss import loss_picture
from nanodistill_mcp.jobs.supervise import Job, carry_out
from nanodistill_mcp.pipeline.report import NOT_WRITTEN
from nanodistill_mcp.pipeline.report.card import card as card_of
from nanodistill_mcp.pipeline.report.facts import facts_of
from nanodistill_mcp.pipeline.report.page import page as page_of
from nanodistill_mcp.pipeline.report.pictured import curve_of, scored_sets
from nanodistill_mcp.pipeline.report.stage import with_report
from nanodistill_mcp.pipeline.report.write import write_report
from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.runs.files import append_line, read_lines, read_object, write_json
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import HOST_TEACHER
from tests.reported import created_run, evaluated, exported, finished_run, next_job, put_in, score, solved, trained
from tests.runs.made import begin_job

HOSTILE = (
    "</td><script>alert(1)</script> ````\n```\n# A heading\n[click](https://evil.example/x) ![i](https://evil.example/p.png)\n"
    "<https://evil.example> | a | b |\n---\nname: evil\n\u202etxt.exe\u2066 \x1b[31m {{ x }} $(rm) `tick` *bold*"
)


def _written(run: Run) -> tuple[str, str]:
    assert write_report(run) == {}
    return run.paths.report.read_text(encoding="utf-8"), run.paths.model_card.read_text(encoding="utf-8")


def _told(run: Run) -> tuple[str, str]:
    """The texts alone: drawing takes most of the time."""
    facts = facts_of(run)
    return page_of(facts, frozenset({"loss.png", "scorecard.png"})), card_of(facts)


def _size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", picture[16:24])


def _tokens(text: str) -> list[Token]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [inner for token in tokens for inner in (token, *(token.children or []))]


def test_every_score_in_the_report_is_the_evaluations(tmp_path: Path) -> None:
    """A number that was rounded differently, or of another set, would be passed on as the truth."""
    run = finished_run(tmp_path)
    page, card = _told(run)
    evaluation = read_object(run.paths.evaluation) or {}
    for name in ("held_out", "synthetic"):
        for model in ("base", "student", "teacher"):
            if told := evaluation[name].get(model):
                low, high = told["interval_95"]
                right, share = f"{told['correct']} of {told['rows']}", f"{told['accuracy']:.0%}"
                assert f"| {model} | {right} | **{share}** | {low:.0%} to {high:.0%} |" in page
                assert f"{model} {right} ({share}, 95% interval {low:.0%} to {high:.0%})" in card
    assert "| student as GGUF file | 31 of 40 | **78%** | 66% to 84% |" in page
    front = yaml.safe_load(card.split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == evaluation["held_out"]["student"]["accuracy"]
    assert result["dataset"]["args"] == {"rows": 40}


def test_the_verdict_comes_first_and_the_rest_is_there(tmp_path: Path) -> None:
    """A colleague reads the first paragraph, and looks for the rest when in doubt."""
    page, _ = _written(finished_run(tmp_path))
    assert page.index("Worth using.") < page.index("## The task") < page.index("## Scores")
    for part in ("![Scores", "![Training", "near", "the teacher refused", "1 min 15 s", "1.5 GB", "ad" * 32, "9f" * 32):
        assert part in page
    assert "ollama create tickets -f Modelfile" in page
    assert "| `learning_rate` | `0.0001` | as it was |" in page


def test_what_others_wrote_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    """An instruction, an example, an answer and a teacher's name all come from somewhere: none may become page or link."""
    run = finished_run(tmp_path, instruction=HOSTILE)
    solved(run, (HOSTILE, HOSTILE, HOSTILE), (HOSTILE + "2", "", HOSTILE), ("q", "r", "a"))
    evaluated(run, answer=HOSTILE, further={"checker": HOSTILE, "verdict": HOSTILE})
    put_in(run, teacher_model=HOSTILE, student=f"/models/{HOSTILE.splitlines()[0].replace('/', '')}")
    page, card = _told(Run(run.paths))
    body = card.split("---\n", 2)[2]
    for text in (page, body):
        tokens = _tokens(text)
        assert not [token for token in tokens if token.type.startswith(("html", "link"))]
        assert {str(token.attrGet("src")) for token in tokens if token.type == "image"} <= {"scorecard.png", "loss.png"}
        assert "A heading" not in {token.content for token in tokens if token.type == "text"}
        assert not set(text) & set("\u202e\u2066\x1b")
        fenced = [token.content for token in tokens if token.type == "fence"]
        assert any("<script>alert(1)</script>" in content and "[click](https" in content for content in fenced)
    rows = [token for token in _tokens(page) if token.type == "tr_open"]
    cells = [token for token in _tokens(page) if token.type in ("td_open", "th_open")]
    assert len(cells) == len([token for token in _tokens(page) if token.type in ("td_close", "th_close")]) > len(rows)
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "mlx"


def test_a_hostile_answer_adds_no_column(tmp_path: Path) -> None:
    """A bar in an answer would move what stands right of it under another heading."""
    run = finished_run(tmp_path)
    evaluated(run, answer="a | b `|` c")
    page, _ = _told(run)
    (line,) = [line for line in page.splitlines() if "a message" in line]
    (inline,) = [token for token in _tokens(f"| a | b | c |\n|-|-|-|\n{line}\n") if token.content == "a | b `|` c"]
    assert inline.type == "code_inline"


def test_where_the_base_lies_is_not_told(tmp_path: Path) -> None:
    """A path holds a person's name, and the page is made to be passed on."""
    run = finished_run(tmp_path, student="/home/somebody/secret-project/tiny-base")
    page, card = _told(run)
    assert "somebody" not in page + card
    assert "tiny-base" in page


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([], ["Not evaluated yet", "It was not trained yet", "There is no model yet"]),
        ([solved, trained], ["Not evaluated yet", "Nothing was measured yet", "not exported to GGUF yet"]),
        ([trained, exported], ["Not evaluated yet", "The GGUF file alone was asked", "31 of 40"]),
        ([trained, evaluated], ["Worth using", "not exported to GGUF yet"]),
    ],
)
def test_what_was_not_done_is_said(tmp_path: Path, stages: list[Any], said: list[str]) -> None:
    """Half a run has half a report: an empty heading or a failure would look like a broken tool."""
    run = created_run(tmp_path)
    for stage in stages:
        stage(run, *[("q", "", "a")] * (stage is solved))
    assert write_report(run) == {}
    page = run.paths.report.read_text(encoding="utf-8")
    assert [words for words in said if words not in page] == []
    assert ("scorecard.png" in page) == run.paths.scorecard.exists() == (evaluated in stages or exported in stages)
    assert ("loss.png" in page) == run.paths.loss_picture.exists() == (trained in stages)


def test_what_later_versions_measure_is_told_too(tmp_path: Path) -> None:
    """Forgetting, groups of failures and fields: each is shown where an evaluation has it."""
    run = finished_run(tmp_path)
    general = {
        "rows": 50,
        "base": score(40, 50),
        "student": score(20, 50),
        "forgot": True,
        "verdict": "It lost 40 points.",
    }
    evaluation = evaluated(run, further={"general": general})
    groups: list[dict[str, Any]] = [
        {"dimension": "topic", "value": "fees", "rows": 8, "wrong": 5, "share": 0.625, "p_value": 0.02, "examples": []}
    ]
    evaluation["held_out"]["failure_groups"] = groups
    told = {"fields": {"queue": 0.9}, "rouge_l": 0.75, "judge_agreement": {"asked_again": 20, "same_verdict": 19}}
    evaluation["held_out"]["student"] |= told
    evaluation["seen_rows_left_out"] = 3
    write_json(run.paths.evaluation, evaluation)
    page, card = _told(run)
    for words in (
        "base 40 of 50, student 20 of 50. It lost 40 points.",
        "| topic: `fees` | 5 of 8 | p = 0.02 | – |",
        "`queue` 90%",
        "0.75",
        "19 of 20",
        "3 given rows repeated",
    ):
        assert words in page
    assert "It lost 40 points." in card
    assert [each.name for each in scored_sets(facts_of(run))][-1] == "general questions (n = 50)"


def test_an_evaluation_of_the_training_before_is_called_so(tmp_path: Path) -> None:
    """The scores of another student are worse than none, unless it is said whose they are."""
    run = finished_run(tmp_path)
    os.utime(run.paths.evaluation, (1, 1))
    page, card = _told(run)
    assert "this verdict is of the training before" in page
    assert "model-index" not in card


@pytest.mark.parametrize(
    ("files", "said", "licence"),
    [
        ({"README.md": "---\nlicense: mit\n---\n"}, "its folder states the licence `mit`", "mit"),
        ({"config.json": '{"license": "apache-2.0"}'}, "its folder states the licence `apache-2.0`", "apache-2.0"),
        ({"LICENSE": "\n  <b>Terms</b> of Use  \nmore"}, "a licence file that begins `<b>Terms</b> of Use`", None),
        ({"README.md": "no front matter"}, "a licence is not stated by its folder", None),
        ({"config.json": "[broken"}, "a licence is not stated by its folder", None),
    ],
)
def test_a_licence_is_the_one_the_base_states_or_none(
    tmp_path: Path, files: dict[str, str], said: str, licence: str | None
) -> None:
    """Whoever passes a model on relies on it: a licence that was made up is worse than none."""
    folder = tmp_path / "models--org--tiny" / "snapshots" / ("ab" * 20)
    folder.mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    run = finished_run(tmp_path, student="org/tiny")
    write_json(run.paths.training, (read_object(run.paths.training) or {}) | {"student_path": str(folder)})
    page, card = _told(run)
    front = yaml.safe_load(card.split("---\n")[1])
    assert said in page
    assert said in card
    assert front.get("license") == licence
    assert front["base_model"] == "org/tiny"
    assert ("ab" * 20 in page) == (files.get("config.json") != "[broken")
    assert "`openai/desk`" in page
    assert "this tool does not know them" in page


def test_the_agent_as_teacher_is_called_that(tmp_path: Path) -> None:
    """Which model answers in a chat is not known here, and an agent that was shown the answers may remember them."""
    run = finished_run(tmp_path)
    evaluation = evaluated(run)
    evaluation["held_out"]["teacher"]["may_have_seen_answers"] = True
    write_json(run.paths.evaluation, evaluation)
    put_in(run, teacher_model=HOST_TEACHER)
    page, _ = _told(Run(run.paths))
    assert "the agent of the chat it was made in" in page
    assert "which model that is, is not recorded" in page
    assert "its share may be a memory" in page
    assert scored_sets(facts_of(run))[0].name == "held-out examples (n = 40; the teacher may have seen the answers)"


def test_a_child_of_another_run_is_told_beside_its_parent(tmp_path: Path) -> None:
    """It was made to do better where the parent failed: whether it does, and what it lost, is the question."""
    run = finished_run(tmp_path)
    evaluation = evaluated(run)
    pair = {"rows": 40, "only_student": 4, "only_parent": 1, "difference": 0.075, "interval_95": [-0.02, 0.17]}
    evaluation["held_out"]["student_against_parent"] = {**pair, "p_value": 0.37}
    evaluation["held_out"]["passed_before"] = {"rows": 30, "still": 29, "lost": []}
    del evaluation["decision"]  # as the first version wrote it
    write_json(run.paths.evaluation, evaluation)
    put_in(run, refined_from="tickets-0")
    page, card = _told(Run(run.paths))
    assert "It goes on from the model of the run `tickets-0`." in page
    assert "only the student was right in 4, only the parent in 1, p = 0.37" in page
    assert "Of 30 that the parent had right it still has 29." in page
    assert "**Evaluated.** The student is better than its base." in page
    assert "Evaluated. The student is better than its base." in card


def test_pictures_differ_exactly_when_what_they_show_does(tmp_path: Path) -> None:
    """A file that changes with every look cannot be compared, and one that never does shows somebody else's numbers."""
    run = finished_run(tmp_path)
    _written(run)
    first = run.paths.loss_picture.read_bytes(), run.paths.scorecard.read_bytes()
    _written(run)
    assert (run.paths.loss_picture.read_bytes(), run.paths.scorecard.read_bytes()) == first
    evaluated(run, student=21)
    trained(run, best=20)
    _written(run)
    assert run.paths.loss_picture.read_bytes() != first[0]
    assert run.paths.scorecard.read_bytes() != first[1]
    for picture in first:
        assert _size(picture)[0] == 1200
        assert len(picture) < 60_000


def test_a_training_over_several_jobs_is_one_curve(tmp_path: Path) -> None:
    """What came after the checkpoint was trained twice: only the second time is in the model."""
    run = finished_run(tmp_path)
    resumed = next_job(run, "train")
    for iteration in range(31, 45):
        append_line(
            resumed.metrics, {"event": "step", "iteration": iteration, "train_loss": 9.0, "learning_rate": 1e-5}
        )
    curve = curve_of(run, read_object(run.paths.training) or {})
    assert curve is not None
    assert [x for x, _ in curve.train] == list(range(1, 45))
    assert [y for x, y in curve.train if x > 30] == [9.0] * 14
    assert curve.resumed == [30]
    begun_anew = next_job(run, "train")
    append_line(begun_anew.metrics, {"event": "step", "iteration": 1, "train_loss": 2.0, "learning_rate": 1e-5})
    curve = curve_of(run, read_object(run.paths.training) or {})
    assert curve is not None
    assert (curve.train, curve.valid, curve.resumed) == ([(1, 2.0)], [], [])


def test_a_diverged_training_is_drawn_and_told(tmp_path: Path) -> None:
    """It ends in numbers that cannot be drawn, just where somebody will want to look."""
    run = created_run(tmp_path)
    trained(
        run, stopped="diverged", best=20, losses=[2.0 - i / 20 for i in range(30)] + [50.0, float("inf"), float("nan")]
    )
    page, _ = _written(run)
    assert "It diverged. The loss ran away." in page
    curve = curve_of(run, read_object(run.paths.training) or {})
    assert curve is not None
    assert curve.diverged == 33
    assert _size(loss_picture(curve))[0] == 1200


async def test_a_report_that_cannot_be_written_fails_no_stage(tmp_path: Path) -> None:
    """Hours of training are done; that a page is missing is said in the log, the events and the reply."""
    run = finished_run(tmp_path)
    run.paths.report.mkdir()
    job = begin_job(run, "train")

    async def stage(_: Job) -> dict[str, Any]:
        return {"trained": True}

    ended = await carry_out(job, with_report(stage))
    assert ended is not None
    assert ended.outcome == "done"
    assert ended.summary["trained"]
    assert ended.summary[NOT_WRITTEN] == {"report.md": "The file could not be written (EISDIR)."}
    (event,) = [line for line in read_lines(job.paths.events) if line["event"] == NOT_WRITTEN]
    assert event["file"] == "report.md"
    assert run.paths.scorecard.exists()
    assert run.paths.model_card.exists()


def test_redoing_a_stage_archives_what_was_said_of_it(tmp_path: Path) -> None:
    """A report of a training that is being redone would be read as the new one's."""
    run = finished_run(tmp_path)
    _written(run)
    moved = archive_from(run, "evaluate")
    assert {"evaluation.json", "report.md", "scorecard.png"} <= set(moved)
    assert run.paths.loss_picture.exists()
    assert "loss.png" in archive_from(run, "train")
    assert not run.paths.model_card.exists()
