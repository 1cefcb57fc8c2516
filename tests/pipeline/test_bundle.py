"""A run as one file: whole, the same each time, silent about this machine, and a run again on another one."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp import cli
from nanodistill_mcp.errors import NanodistillError, RunStateError, UserInputError
from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.bundle import MANIFEST, check_idle_for, write_bundle
from nanodistill_mcp.pipeline.bundle_contents import ALLOWED
from nanodistill_mcp.pipeline.seeds import digest
from nanodistill_mcp.pipeline.unbundle import import_bundle
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import PIPELINE, Exit, JobRequest, State, Trace
from nanodistill_mcp.runs.store import Run, RunStore, now
from nanodistill_mcp.runs.tags import write_tags
from nanodistill_mcp.server import artifacts
from nanodistill_mcp.settings import Settings, load_settings
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun
from tests.runs.made import SEEDS, manifest

SECRET = "planted-key-of-this-machine-0123456789"
URL = "https://user:passw0rd@llm.corp.internal/v1"
STAGES = ("synthesize_cot", "extract_policy", "amplify")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory below a home of its own, and a key in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    monkeypatch.setenv("CORP_LLM_KEY", SECRET)
    return tmp_path / "jane" / "data"


def _settings(home: Path) -> Settings:
    return load_settings(home, env={})


def _whole_run(home: Path) -> Run:
    """A run up to its model, with everything in it that says where it was made."""
    student = str(home.parent / "models" / "qwen")
    options = {"test_path": str(home.parent / "rows.jsonl"), "seed": 1}
    made = manifest("whole", student=student, options=options, seeds_sha256=digest(SEEDS))
    told = {"teacher_host": "llm.corp.internal", "key_variables": ["CORP_LLM_KEY", "OPENAI_API_KEY"]}
    made.plan.warnings.append(f"{student} is small.")
    run, _ = RunStore(home).create(made.model_copy(update=told), SEEDS)
    with Journal.open(run.paths.calls) as journal:
        key: dict[str, Any] = {"call_id": "c1", "attempt": 1, "at": now()}
        journal.append({"kind": "intent", **key, "stage": "amplify", "model": "openai/desk", "max_usd": 1.0})
        journal.append({"kind": "answer", **key, "text": "{}", "input_tokens": 9, "output_tokens": 1, "cost_usd": 0.5})
    trace: dict[str, Any] = {
        "thinking": "t",
        "teacher_output": "o",
        "agrees": True,
        "confidence": 1.0,
        "call_ids": ["c1"],
    }
    rows = [
        Trace(id=each.id, input=each.input, output=each.output, split=each.split, **trace).model_dump()
        for each in SEEDS
    ]
    write_lines(run.paths.traces_cot, rows)
    run.paths.dataset.mkdir()
    write_json(run.paths.dataset / "manifest.json", {"examples": 1})
    run.paths.adapters.mkdir(parents=True)
    write_json(run.paths.adapters / "adapter_config.json", {"model": student, "fine_tune_type": "lora"})
    (run.paths.adapters / "adapters.safetensors").write_bytes(os.urandom(5000))
    write_json(run.paths.training, {"student_path": student, "student": student, "recipe": {"seed": 1}})
    write_json(run.paths.evaluation, {"verdict": "Good.", "decision": "ship"})
    write_json(run.paths.export, {"student": student, "forms": {"peft": "exports/peft"}, "quantization": "Q4_K_M"})
    run.paths.gguf.write_bytes(b"gguf" * 500)
    run.paths.report.write_text(f"# Report\n\nOf {student}, in {run.paths.root}.\n", encoding="utf-8")
    (run.paths.root / "loss.png").write_bytes(b"\x89PNG\n\x00")
    write_tags(run.paths, ["prod"])
    job = JobPaths(run.paths.jobs / "001-train")
    job.root.mkdir()
    arguments = {"options": {"seed": 1}, "endpoint": {"api_base": URL}, "ledger_dir": str(home / "ledger"), "student": student}  # fmt: skip
    request = JobRequest(stage="train", nonce="n0nce", requested_at=now(), arguments=arguments)
    write_json(job.request, request.model_dump())
    ended = Exit(
        outcome="done", ended_at=now(), elapsed_s=3.0, summary={"student_path": student, "where": f"in {home}"}
    )
    write_json(job.exit, ended.model_dump())
    write_lines(job.metrics, [{"event": "dataset", "folder": str(run.paths.dataset)}])
    job.log.write_text(f"{SECRET} {URL} {home}", encoding="utf-8")
    for place, name in enumerate(("traces_cot.jsonl", "training.json", "evaluation.json", "export.json")):
        os.utime(run.paths.root / name, (1_700_000_000 + place, 1_700_000_000 + place))
    return run


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {each.name.partition("/")[2]: tar.extractfile(each).read() for each in tar}  # pyright: ignore[reportOptionalMemberAccess]


def test_the_same_run_gives_the_same_bytes_and_names_the_hash_of_each_file(home: Path) -> None:
    """Two people who bundle the same run can tell by one hash that they hold the same."""
    run = _whole_run(home)
    first = write_bundle(run, home.parent / "a.tar.gz", with_gguf=True)
    for entry in sorted(run.paths.root.rglob("*.jsonl")):
        os.utime(entry)
    os.utime(run.paths.traces_cot, (1_700_000_000, 1_700_000_000))
    second = write_bundle(run, home.parent / "b.tar.gz", with_gguf=True)
    assert first.sha256 == second.sha256 == hashlib.sha256(second.path.read_bytes()).hexdigest()
    with tarfile.open(first.path) as tar:
        assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in tar} == {(0, 0, 0, "", 0o600)}
        names = tar.getnames()
    assert names[1:-1] == sorted(names[1:-1])
    members = _members(first.path)
    told = json.loads(members[MANIFEST])
    assert {name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != MANIFEST} == {
        name: file["sha256"] for name, file in told["files"].items()
    }
    assert {"mlx-lm", "litellm"} <= told["versions"].keys()
    assert told["make_again"][-1] == "export_gguf(run_id='again', quantization='Q4_K_M', restart=True)"
    assert {"run.json", "seeds.jsonl", "calls.jsonl", "report.md", "loss.png", "model.gguf", "tags.json"} <= members.keys()  # fmt: skip


def test_a_bundle_says_nothing_of_the_machine_it_was_made_on(home: Path) -> None:
    """It is made to be handed on: no key, no endpoint, no folder of this user may be in any byte of it."""
    run = _whole_run(home)
    unpacked = gzip.decompress(write_bundle(run, home.parent / "a.tar.gz").path.read_bytes())
    for planted in (SECRET, URL, "passw0rd", "corp.internal", "CORP_LLM_KEY", str(home), str(home.parent), "n0nce"):
        assert planted.encode() not in unpacked, planted
    members = _members(home.parent / "a.tar.gz")
    spec = json.loads(members["run.json"])["spec"]
    assert (spec["student"], spec["options"]["test_path"]) == ("qwen", "rows.jsonl")
    assert json.loads(members["run.json"])["key_variables"] == ["OPENAI_API_KEY"]
    assert members["report.md"] == b"# Report\n\nOf qwen, in ..\n"
    assert json.loads(members["jobs/001-train/request.json"])["arguments"] == {"options": {"seed": 1}}
    assert "model.gguf" not in members
    assert "jobs/001-train/log.txt" not in members


@pytest.mark.parametrize(
    ("planted", "told", "as_is_helps"),
    [
        pytest.param(SECRET, "holds the value of a key of this machine", False, id="key"),
        pytest.param("sk-" + "a1" * 20, "holds what looks like a key", True, id="pattern"),
        pytest.param("HOME/tickets.csv", "holds a folder of this machine", True, id="folder"),
    ],
)
def test_data_that_hold_a_secret_stop_the_bundle_and_name_the_line(
    home: Path, planted: str, told: str, as_is_helps: bool
) -> None:
    """A paid answer cannot be changed and still fit its question, so the user is asked instead."""
    run = _whole_run(home)
    with Journal.open(run.paths.calls) as journal:
        text = planted.replace("HOME", str(home.parent))
        answer = {"text": f"see {text} there", "input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0}
        journal.append({"kind": "answer", "call_id": "c2", "attempt": 1, **answer})
    target = home.parent / "a.tar.gz"
    with pytest.raises(UserInputError, match=r"Line 3 of calls\.jsonl") as refused:
        write_bundle(run, target)
    assert told in refused.value.what
    assert planted not in str(refused.value)
    assert not list(home.parent.glob("*a.tar.gz*"))
    if as_is_helps:
        assert "calls.jsonl" in _members(write_bundle(run, target, as_is=True).path)
    else:
        with pytest.raises(UserInputError):
            write_bundle(run, target, as_is=True)


def test_a_writer_killed_at_work_leaves_nothing_under_the_bundles_name(home: Path) -> None:
    """A half file that looks whole would be handed on and fail where it was to be of use."""
    run = _whole_run(home)
    run.paths.gguf.write_bytes(os.urandom(1 << 20) * 80)
    target = home.parent / "a.tar.gz"
    program = (
        "import sys; from pathlib import Path; from nanodistill_mcp.pipeline.bundle import write_bundle;"
        "from nanodistill_mcp.runs.paths import RunPaths; from nanodistill_mcp.runs.store import Run;"
        "write_bundle(Run(RunPaths(Path(sys.argv[1]))), Path(sys.argv[2]), with_gguf=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(run.paths.root), str(target)])
    partial = target.with_name(f".{target.name}.partial")

    async def until_it_writes() -> None:
        with anyio.fail_after(60):
            while not (partial.exists() and partial.stat().st_size > 1 << 20):
                assert writer.poll() is None, "it ended before it could be killed"
                await anyio.sleep(0.005)

    anyio.run(until_it_writes)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not target.exists()
    run.paths.gguf.write_bytes(b"gguf")
    assert "model.gguf" in _members(write_bundle(run, target, with_gguf=True).path)
    assert not partial.exists()


def test_an_imported_run_stands_where_the_other_one_stood(home: Path, tmp_path: Path) -> None:
    """Every stage that was done is done, none looks older than it was, and this machine's endpoint is its own."""
    run = _whole_run(home)
    bundle = write_bundle(run, home.parent / "a.tar.gz")
    other = RunStore(tmp_path / "other")
    found, created = import_bundle(other, _settings(other.home), bundle.path, student="org/qwen")
    assert (created, found.run_id) == (True, "whole")
    done = [each.stage for each in states.pipeline_status(found) if each.state is State.DONE]
    assert done == ["synthesize_cot", "train", "evaluate"]
    assert not any(states.is_outdated(found, stage) for stage in PIPELINE)
    assert (found.manifest.spec.student, found.manifest.teacher_host) == ("org/qwen", "")
    assert found.manifest.key_variables == ["OPENAI_API_KEY"]
    assert states.spend(found) == states.spend(run)
    assert (found.tags(), found.seeds()) == (["prod"], run.seeds())
    assert (found.paths.adapters / "adapters.safetensors").read_bytes() == (
        run.paths.adapters / "adapters.safetensors"
    ).read_bytes()
    assert json.loads(found.paths.training.read_text("utf-8"))["student_path"] is None
    assert sorted(os.listdir(other.home)) == ["import.lock", "runs"]
    again, made = import_bundle(other, _settings(other.home), bundle.path)
    assert (again.run_id, made) == ("whole", False)
    with pytest.raises(UserInputError, match="not of this bundle"):
        import_bundle(RunStore(home), _settings(home), bundle.path)
    copy, _ = import_bundle(RunStore(home), _settings(home), bundle.path, name="copy")
    assert copy.paths.root.stat().st_mode & 0o777 == 0o700


def test_the_gguf_file_comes_back_with_its_export(home: Path, tmp_path: Path) -> None:
    """Without the file the export is done again, which is free; with it there is nothing to do."""
    bundle = write_bundle(_whole_run(home), home.parent / "a.tar.gz", with_gguf=True)
    found, _ = import_bundle(RunStore(tmp_path / "o"), _settings(tmp_path / "o"), bundle.path)
    assert states.stage_status(found, "export_gguf").state is State.DONE
    assert found.paths.gguf.read_bytes() == b"gguf" * 500


@pytest.mark.slow
async def test_an_imported_run_answers_its_stages_without_paying(tmp_path: Path, script: ScriptedTeacher) -> None:
    """That is what a bundle is for: another person makes the run again, and the teacher is not asked once."""
    paid = PaidRun(tmp_path / "mine", script, spec={"augment_factor": 3})
    for stage in STAGES:
        await paid.summary(stage)
    before = paid.written(paid.run.paths.traces_amplified)
    bundle = write_bundle(paid.run, tmp_path / "paid.tar.gz", as_is=True)
    asked = len(script.asked)
    theirs = PaidRun(tmp_path / "theirs", script)
    theirs.run, _ = import_bundle(RunStore(theirs.home), _settings(theirs.home), bundle.path, name="again")
    assert states.pipeline_status(theirs.run)[2].state is State.DONE
    for path in (theirs.run.paths.traces_cot, theirs.run.paths.policy, theirs.run.paths.traces_amplified):
        path.unlink()
    for stage in STAGES:
        await theirs.summary(stage)
    assert len(script.asked) == asked
    assert theirs.written(theirs.run.paths.traces_amplified) == before


def test_people_bundle_and_import_with_two_commands(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on each machine; a file that is there is never written over."""
    _whole_run(home)
    target = tmp_path / "run.tar.gz"

    def command(folder: Path, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["nanodistill-mcp", "--home", str(folder), *arguments])
        monkeypatch.setenv("NANODISTILL_HOME", str(folder))  # restored with the rest of the environment
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(str(ended.value.code))

    assert command(home, "bundle", "whole", "--to", str(target)) == 0
    assert "sha256" in capsys.readouterr().out
    assert command(home, "bundle", "whole", "--to", str(target)) == 2
    assert "There is a file of that name already." in capsys.readouterr().err
    assert command(tmp_path / "other", "import", str(target), "--name", "again", "--student", "org/qwen") == 0
    assert capsys.readouterr().out == "Run again is imported: nanodistill-mcp show again\n"
    assert command(home, "import", str(target), "--name", "copy") == 0
    assert command(home, "compare", "whole", "copy") == 0


def test_a_run_that_a_job_is_changing_is_not_bundled(home: Path) -> None:
    """Half of what the job writes would be in it."""
    run = _whole_run(home)
    (run.paths.jobs / "002-evaluate").mkdir()
    lock = open_lock(run.paths.worker_lock)
    assert try_lock(lock)
    with pytest.raises(RunStateError, match=r"evaluate of this run is running"):
        check_idle_for(run)
    os.close(lock)
    check_idle_for(run)


# An archive that somebody made to do harm, or that was damaged on its way.

Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def _remade(source: Path, target: Path, change: Change, *, signed: bool = True) -> Path:
    """The bundle with something changed, its manifest made to fit unless it is what was changed."""
    with tarfile.open(source) as tar:
        members = [(each, tar.extractfile(each).read()) for each in tar]  # pyright: ignore[reportOptionalMemberAccess]
    change(members)
    if signed:
        info, data = members.pop()
        told = json.loads(data)
        told["files"] = {
            each.name.partition("/")[2]: {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}
            for each, held in members
        }
        members.append((info, json.dumps(told).encode()))
    with tarfile.open(target, "w:gz") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return target


def _added(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        members.insert(0, (info, data))

    return change


def _replaced(name: str, data: bytes) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        at = next(place for place, (info, _) in enumerate(members) if info.name == f"whole/{name}")
        members[at] = (members[at][0], data)

    return change


def _manifest_with(**fields: Any) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info, data = members.pop()
        members.append((info, json.dumps({**json.loads(data), **fields}).encode()))

    return change


def _without_third(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.pop(2)


def _without_manifest(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.pop()
    members.append(members.pop(0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(_added("whole/../../evil"), "holds a file that no bundle holds", id="dots"),
        pytest.param(_added("/tmp/evil"), "holds a file that no bundle holds", id="absolute"),
        pytest.param(_added("../evil/run.json"), "holds a file that no bundle holds", id="up"),
        pytest.param(_added("whole/authorized_keys"), "holds a file that no bundle holds", id="unknown"),
        pytest.param(_added("whole/jobs/001-train/log.txt\n"), "holds a file that no bundle holds", id="line-break"),
        pytest.param(_added("whole/loss.png", b"", tarfile.SYMTYPE, "/etc/passwd"), "holds a link", id="symlink"),
        pytest.param(_added("whole/loss.png", b"", tarfile.LNKTYPE, "/etc/passwd"), "holds a link", id="hard-link"),
        pytest.param(_added("whole/loss.png", b"", tarfile.FIFOTYPE), "holds a link", id="fifo"),
        pytest.param(_added("whole/seeds.jsonl"), "names a file twice", id="twice"),
        pytest.param(_added("other/inputs.jsonl"), "names a file twice, or too many", id="two-runs"),
        pytest.param(_replaced("seeds.jsonl", b""), "examples are not those its run was made of", id="seeds"),
        pytest.param(_replaced("calls.jsonl", b'{"kind":"answer"}\n'), "line of its journal is damaged", id="journal"),
        pytest.param(_replaced("run.json", b'{"run_id": 1}'), "does not have the fields", id="manifest"),
        pytest.param(_replaced("traces_cot.jsonl", b"[]\n{}\n"), "does not have the fields", id="trace"),
        pytest.param(_manifest_with(bundle_version=2), "newer version", id="bundle-version"),
        pytest.param(_manifest_with(schema_version=2), "newer version", id="schema-version"),
        pytest.param(_manifest_with(bundle_version="x"), "manifest is not readable", id="version"),
        pytest.param(_added("whole/inputs.jsonl", b"\0" * (65 << 20)), "larger than a bundle can be", id="bomb"),
    ],
)
def test_an_archive_that_is_not_as_a_bundle_is_refused_and_leaves_nothing(
    home: Path, tmp_path: Path, change: Change, told: str
) -> None:
    """It comes from somebody else: no name in it is a path, and nothing of it stays when anything is wrong."""
    bundle = write_bundle(_whole_run(home), home.parent / "a.tar.gz")
    evil = _remade(bundle.path, tmp_path / "evil.tar.gz", change)
    other = RunStore(tmp_path / "other" / "home")
    with pytest.raises(NanodistillError, match=told) as refused:
        import_bundle(other, _settings(other.home), evil)
    assert isinstance(refused.value, UserInputError | RunStateError)
    assert other.names() == []
    assert sorted(os.listdir(other.home)) == ["import.lock", "runs"]
    assert sorted(os.listdir(tmp_path / "other")) == ["home"]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_replaced("seeds.jsonl", b"{}"), id="changed"),
        pytest.param(_added("whole/inputs.jsonl"), id="added"),
        pytest.param(_without_third, id="left-out"),
        pytest.param(_without_manifest, id="no-manifest"),
    ],
)
def test_a_file_that_is_not_the_one_the_manifest_names_is_refused(home: Path, tmp_path: Path, change: Change) -> None:
    """A bit that flipped on the way would otherwise be trained on."""
    bundle = write_bundle(_whole_run(home), home.parent / "a.tar.gz")
    changed = _remade(bundle.path, tmp_path / "changed.tar.gz", change, signed=False)
    with pytest.raises(UserInputError, match=r"not the one its manifest names|has no manifest"):
        import_bundle(RunStore(tmp_path / "o"), _settings(tmp_path / "o"), changed)


def test_half_an_archive_or_none_is_refused_in_words(home: Path, tmp_path: Path) -> None:
    """A download that broke off must not end in a library's report."""
    data = write_bundle(_whole_run(home), home.parent / "a.tar.gz").path.read_bytes()
    other = tmp_path / "o"
    for name, held in (("half", data[: len(data) // 2]), ("text", b"not an archive"), ("empty", b"")):
        (tmp_path / name).write_bytes(held)
        with pytest.raises(UserInputError, match="not a bundle"):
            import_bundle(RunStore(other), _settings(other), tmp_path / name)
    with pytest.raises(UserInputError, match="cannot be read"):
        import_bundle(RunStore(other), _settings(other), tmp_path / "absent")


def test_every_artifact_a_run_can_have_goes_along() -> None:
    """A file that a later version writes must not be forgotten here."""
    assert [name for name in artifacts.FILES if not ALLOWED.match(name)] == []
