"""Runs as a collection: one folder a name, made whole, listed whatever is in it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill_mcp.errors import DamagedRunError, RunStateError, UserInputError
from nanodistill_mcp.runs import store as module
from nanodistill_mcp.runs.paths import RUN_ID, JobPaths, data_home, run_id_of
from nanodistill_mcp.runs.records import RunManifest, Seed
from nanodistill_mcp.runs.store import RunStore
from tests.runs.made import SEEDS, make_run, manifest

_CREATES = """
import json, sys
from pathlib import Path
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.records import RunManifest, Seed
from nanodistill_mcp.runs.store import RunStore
home, seeds = Path(sys.argv[1]), [Seed(id="s1", input="a", output="b", split="train")]
for line in sys.stdin:
    try:
        run, created = RunStore(home).create(RunManifest.model_validate_json(line), seeds)
        print(json.dumps([run.run_id, created]), flush=True)
    except NanodistillError as error:
        print(json.dumps([error.kind, error.what]), flush=True)
"""


def _folders(home: Path) -> list[str]:
    return sorted(os.listdir(home / "runs"))


def test_a_run_is_made_whole_and_private(tmp_path: Path) -> None:
    """A listing beside it sees no run or a complete one, and only this user sees either."""
    run = make_run(tmp_path / "home")
    assert run.manifest == RunManifest.model_validate_json(run.paths.manifest.read_text())
    assert run.seeds() == SEEDS
    assert _folders(tmp_path / "home") == ["tickets"]
    for folder in (tmp_path / "home", tmp_path / "home" / "runs", run.paths.root, run.paths.jobs):
        assert folder.stat().st_mode & 0o777 == 0o700
    for file in (run.paths.manifest, run.paths.seeds):
        assert file.stat().st_mode & 0o777 == 0o600


def test_the_same_name_and_spec_is_the_same_run(tmp_path: Path) -> None:
    """A client that lost the answer asks again; a second run would pay everything twice."""
    store = RunStore(tmp_path)
    first, made = store.create(manifest(), SEEDS)
    again, made_again = store.create(manifest(), SEEDS)
    assert (made, made_again) == (True, False)
    assert again == first
    assert again.manifest.created_at == first.manifest.created_at


def test_the_same_name_with_another_spec_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The agent decides from this sentence whether to continue that run or to choose another name."""
    make_run(tmp_path)
    with pytest.raises(UserInputError) as caught:
        RunStore(tmp_path).create(manifest(budget_usd=7.5, instruction="x" * 500), SEEDS)
    assert caught.value.what == (
        "There is already a run 'tickets' with another specification (instruction: 'Sort the ticket.' there, '"
        + "x" * 59
        + "... here; budget_usd: 5.0 there, 7.5 here)."
    )
    assert caught.value.next_step == (
        "Choose another name, or repeat the call with the specification that is there to continue it."
    )
    assert RunStore(tmp_path).open("tickets").manifest.spec.budget_usd == 5.0


def test_a_name_in_other_case_is_the_same_name(tmp_path: Path) -> None:
    """On a Mac's file system 'Tickets' and 'tickets' are one folder."""
    make_run(tmp_path, "Tickets")
    run, created = RunStore(tmp_path).create(manifest("tICKETS"), SEEDS)
    assert (run.run_id, created) == ("Tickets", False)
    with pytest.raises(UserInputError, match="already a run 'Tickets' with another specification"):
        RunStore(tmp_path).create(manifest("tickets", teacher="other"), SEEDS)


def _race(home: Path, rounds: list[list[RunManifest]]) -> list[list[list[object]]]:
    racers = [
        subprocess.Popen(
            [sys.executable, "-I", "-c", _CREATES, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in rounds[0]
    ]
    answers: list[list[list[object]]] = []
    for manifests in rounds:
        for racer, wanted in zip(racers, manifests, strict=True):
            assert racer.stdin is not None
            racer.stdin.write(wanted.model_dump_json() + "\n")
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.flush()
        answers.append([json.loads(racer.stdout.readline()) for racer in racers if racer.stdout is not None])
    for racer in racers:
        racer.communicate(timeout=30)
    return answers


def test_eight_racing_servers_make_one_run(tmp_path: Path) -> None:
    """A client may start several servers and retry on each; exactly one of them makes the folder."""
    rounds = 8
    answers = _race(tmp_path, [[manifest(f"run-{i}") for _ in range(8)] for i in range(rounds)])
    for i, told in enumerate(answers):
        assert [run_id for run_id, _ in told] == [f"run-{i}"] * 8
        assert sorted(created for _, created in told) == [False] * 7 + [True]  # pyright: ignore[reportArgumentType]
    assert _folders(tmp_path) == sorted(f"run-{i}" for i in range(rounds))


def test_racing_servers_make_no_two_runs_whose_names_differ_in_case(tmp_path: Path) -> None:
    """A rename alone is no protection where the file system tells case apart."""
    spellings = ["tickets", "Tickets", "TICKETS", "tIcKeTs"]
    rounds = 8
    _race(tmp_path, [[manifest(f"{spelling}{i}") for spelling in spellings] for i in range(rounds)])
    assert sorted(name.casefold() for name in _folders(tmp_path)) == sorted(f"tickets{i}" for i in range(rounds))


def test_a_run_that_could_not_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of create_run."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="space"):
        RunStore(tmp_path).create(manifest(), SEEDS)
    assert _folders(tmp_path) == []


def test_text_that_utf_8_refuses_does_not_stop_a_run_from_being_made(tmp_path: Path) -> None:
    """Half an emoji in a seed that was cut by another program."""
    seeds = [Seed(id="s1", input="cut \ud83d", output="b", split="train")]
    run, _ = RunStore(tmp_path).create(manifest(instruction="half \ud83d"), seeds)
    assert RunStore(tmp_path).open(run.run_id).seeds() == seeds


@pytest.mark.parametrize("kind", ["file", "link to a folder", "broken link"])
def test_a_name_that_something_else_stands_under_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    """The rename fails; what stands there is left as it is."""
    RunStore(tmp_path).prepare()
    there = tmp_path / "runs" / "tickets"
    if kind == "file":
        there.write_text("theirs")
    else:
        (tmp_path / "outside").mkdir() if kind == "link to a folder" else None
        there.symlink_to(tmp_path / "outside")
    with pytest.raises(UserInputError, match="The name 'tickets' is taken by something that is not a run"):
        RunStore(tmp_path).create(manifest(), SEEDS)
    assert _folders(tmp_path) == ["tickets"]


def test_a_damaged_run_is_one_row_of_the_listing(tmp_path: Path) -> None:
    """One bad file must not hide the other runs."""
    for name in ("good", "empty", "torn", "wrong", "fifo", "deep", "unreadable"):
        make_run(tmp_path, name)
    (tmp_path / "runs" / "empty" / "run.json").unlink()
    (tmp_path / "runs" / "torn" / "run.json").write_text('{"schema_version": 1, "run_')
    (tmp_path / "runs" / "wrong" / "run.json").write_text('["canary"]')
    (tmp_path / "runs" / "fifo" / "run.json").unlink()
    os.mkfifo(tmp_path / "runs" / "fifo" / "run.json")
    (tmp_path / "runs" / "deep" / "run.json").write_text("[" * 100_000)
    (tmp_path / "runs" / "unreadable" / "run.json").write_bytes(b"\xff\xfe\x00")
    rows: dict[str, str] = {}
    for run in RunStore(tmp_path).all():
        try:
            rows[run.run_id] = run.manifest.run_id
        except DamagedRunError as error:
            rows[run.run_id] = str(error)
    assert rows.pop("good") == "good"
    assert len(rows) == 6
    assert all("run.json" in said and "canary" not in said for said in rows.values())


def test_a_damaged_seed_is_said_without_its_content(tmp_path: Path) -> None:
    """A line that is JSON and not a seed; a validator's own message would quote it."""
    run = make_run(tmp_path)
    lines = run.paths.seeds.read_text().splitlines()
    run.paths.seeds.write_text("\n".join([lines[0], '{"id": "canary", "split": "canary"}', lines[2]]) + "\n")
    with pytest.raises(DamagedRunError) as caught:
        run.seeds()
    assert caught.value.what == "Line 2 of seeds.jsonl does not have the fields it should have."
    assert "canary" not in f"{caught.value}{caught.value.__cause__}"


def test_a_folder_that_disappears_during_the_listing_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server moves a run to the trash between the look into the folder and the look at the entry."""
    store = RunStore(tmp_path)
    for name in ("one", "two", "three"):
        make_run(tmp_path, name)
    real = os.scandir

    def racing(path: Path) -> object:
        entries = real(path)
        store.trash(store.open("two"))
        monkeypatch.setattr(os, "scandir", real)
        return entries

    monkeypatch.setattr(os, "scandir", racing)
    assert sorted(store.names()) == ["one", "three"]


def test_only_folders_that_could_be_runs_are_listed(tmp_path: Path) -> None:
    """Drafts, hidden files, links, and what a file manager leaves; a name no tool accepts would be a dead row."""
    make_run(tmp_path, "tickets")
    runs = tmp_path / "runs"
    (runs / ".tickets.1a2b.tmp").mkdir()
    (runs / ".DS_Store").write_text("")
    (runs / "notes.txt").write_text("")
    (runs / "copy of tickets").mkdir()
    (tmp_path / "outside").mkdir()
    (runs / "link").symlink_to(tmp_path / "outside")
    assert RunStore(tmp_path).names() == ["tickets"]


def test_a_store_that_was_never_used_is_empty(tmp_path: Path) -> None:
    """The first call of a new user."""
    assert RunStore(tmp_path / "absent").names() == []
    with pytest.raises(UserInputError) as caught:
        RunStore(tmp_path / "absent").open("tickets")
    assert str(caught.value) == "There is no run 'tickets'. There are no runs yet: call create_run first."


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    """The first page is what a user looks for."""
    for age, name in enumerate(("b", "c", "a")):
        run = make_run(tmp_path, name)
        os.utime(run.paths.root, (1_000_000 - age, 1_000_000 - age))
    assert RunStore(tmp_path).names() == ["b", "c", "a"]


def test_a_linked_run_folder_is_not_opened(tmp_path: Path) -> None:
    """A link in the data directory must not make another folder writable."""
    elsewhere = make_run(tmp_path / "elsewhere", "tickets")
    RunStore(tmp_path).prepare()
    (tmp_path / "runs" / "tickets").symlink_to(elsewhere.paths.root)
    with pytest.raises(UserInputError, match="There is no run 'tickets'"):
        RunStore(tmp_path).open("tickets")


def test_an_unknown_run_is_answered_with_those_there_are(tmp_path: Path) -> None:
    """The agent can pick the right one at once."""
    make_run(tmp_path, "tickets")
    with pytest.raises(UserInputError) as caught:
        RunStore(tmp_path).open("../tickets")
    assert str(caught.value) == "There is no run '../tickets'. Known runs: tickets."


def test_a_trashed_run_is_out_of_the_list_and_whole_in_the_trash(tmp_path: Path) -> None:
    """Deleting is undone by moving the folder back; the name is free at once."""
    store = RunStore(tmp_path)
    first = store.trash(make_run(tmp_path))
    second = store.trash(make_run(tmp_path))
    assert store.names() == []
    assert first != second
    assert first.parent == tmp_path / "trash"
    assert json.loads((first / "run.json").read_text())["run_id"] == "tickets"
    os.rename(first, tmp_path / "runs" / "tickets")
    assert store.open("tickets").seeds() == SEEDS


def test_a_run_of_a_newer_version_is_read_and_not_written(tmp_path: Path) -> None:
    """Two clients on one machine may have two versions installed."""
    run = make_run(tmp_path)
    newer = json.loads(run.paths.manifest.read_text()) | {"schema_version": 2, "field_of_version_2": {}}
    run.paths.manifest.write_text(json.dumps(newer))
    opened = RunStore(tmp_path).open("tickets")
    assert opened.manifest.spec.teacher == "local"
    with pytest.raises(RunStateError, match="made by a newer version"):
        opened.check_writable()


@pytest.mark.parametrize("folder", ["Library/CloudStorage/Dropbox/x", "Library/Mobile Documents/x"])
def test_a_data_directory_in_a_synced_folder_is_refused(tmp_path: Path, folder: str) -> None:
    """Locks are local there and files get evicted or duplicated."""
    with pytest.raises(RunStateError, match="cloud service"):
        RunStore(tmp_path / folder).prepare()


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """The person who configured the server reads this."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStateError) as caught:
        RunStore(tmp_path / "file" / "home").prepare()
    assert caught.value.what == "The data directory cannot be made (ENOTDIR)."


@pytest.mark.parametrize(
    "name", ["a", "A1", "tickets-1", "v1.2_x", "0", "x" * 64, "com10", "console", "nul-1", "a.b.c"]
)
def test_plain_names_are_run_ids(name: str) -> None:
    """What people type."""
    assert run_id_of(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/a", "-a", "_a", ".a", "a.", "a..b", "a b", "a\n", "a\0", "é", "\uff41", "x" * 65),
        *("con", "NUL.txt", "Com1", "lpt9.a", "a\\b", "a:b", "~", "%2e", "a\u202eb"),
    ],
)
def test_names_that_could_mean_another_place_are_refused(name: str) -> None:
    """A run id becomes a folder, a URI and a command-line argument."""
    with pytest.raises(UserInputError) as caught:
        run_id_of(name)
    assert caught.value.what == "That is not a usable run name."


def test_any_name_that_is_accepted_is_one_new_folder_and_nothing_else(tmp_path: Path) -> None:
    """A seeded corpus of 20,000 names of hostile parts; each accepted one is a plain child of the runs folder."""
    parts = (
        "a",
        "Z9",
        "-",
        "_",
        ".",
        "..",
        "/",
        "\\",
        "\0",
        "\n",
        " ",
        "con",
        "aux",
        "é",
        "\u202e",
        "~",
        "%2e",
        "\ud83d",
        "x" * 40,
    )
    chooser = random.Random(3)
    accepted: set[str] = set()
    for _ in range(20_000):
        name = "".join(chooser.choices(parts, k=chooser.randint(0, 5)))
        try:
            accepted.add(run_id_of(name))
        except UserInputError:
            continue
    assert len(accepted) > 100
    for name in accepted:
        path = tmp_path / name
        assert Path(os.path.normpath(path)) == path
        assert path.parent == tmp_path
        assert RUN_ID.match(name)
        assert not name.endswith(".")


def test_jobs_are_in_the_order_they_were_begun_past_a_thousand(tmp_path: Path) -> None:
    """Names sort as text; numbers do not."""
    run = make_run(tmp_path)
    for name in ("1000-train", "999-train", "002-amplify", "001-train", "notes", "003-", ".004-train", "5-train"):
        (run.paths.jobs / name).mkdir()
    assert [job.root.name for job in run.paths.job_list()] == ["001-train", "002-amplify", "999-train", "1000-train"]
    assert (JobPaths(run.paths.jobs / "1000-train").number, JobPaths(run.paths.jobs / "002-amplify").stage) == (
        1000,
        "amplify",
    )


def test_the_data_directory_is_the_one_that_was_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two clients must not see two stores."""
    monkeypatch.setenv("NANODISTILL_HOME", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("NANODISTILL_HOME", "~/x")
    assert data_home() == Path.home() / "x"
    monkeypatch.delenv("NANODISTILL_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_home() == Path.home() / "Library" / "Application Support" / "nanodistill"
