"""The project's own files: what is published, what is locked, and what a start of the server may load."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REGISTRY_SCHEMA = ROOT / "tests" / "data" / "mcp-registry" / "server.schema.json"
"""The MCP registry's own schema, version 2025-12-11, without one list of examples; its licence lies beside it."""

HEAVY = (
    "litellm",
    "instructor",
    "openai",
    "mlx",
    "mlx_lm",
    "transformers",
    "numpy",
    "gguf",
    "xllamacpp",
    "rich",
    "matplotlib",
    "PIL",
)
"""Seconds of import between them, and none is needed to answer from a run folder."""

UNNEEDED_AT_START = ("psutil", "yaml", "nanodistill_mcp.teacher.client")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """What pyproject.toml says of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def server_json() -> dict[str, Any]:
    """The registry's entry."""
    return json.loads((ROOT / "server.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the locked build backend and without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_registry_accepts_server_json(server_json: dict[str, Any]) -> None:
    """A refused entry is found here, not at a release."""
    schema = json.loads(REGISTRY_SCHEMA.read_text(encoding="utf-8"))
    assert server_json["$schema"] == schema["$id"]
    jsonschema.validate(server_json, schema)


def test_server_json_names_the_version_that_pyproject_builds(
    server_json: dict[str, Any], project: dict[str, Any]
) -> None:
    """The registry hands out what the index holds; two versions would be two servers."""
    (package,) = server_json["packages"]
    assert package["identifier"] == project["name"]
    assert server_json["version"] == package["version"] == project["version"]
    found = subprocess.run(
        [sys.executable, "-m", "nanodistill_mcp", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == project["version"]


def test_the_readme_carries_the_registry_name(server_json: dict[str, Any]) -> None:
    """The registry takes this line, in the published description, as proof that the package is the server's."""
    assert f"mcp-name: {server_json['name']}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_key_that_server_json_asks_for_is_marked_secret(server_json: dict[str, Any]) -> None:
    """A client shows a plain variable on the screen and may store it in a file that is shared."""
    variables = server_json["packages"][0]["environmentVariables"]
    assert {v["name"] for v in variables if v["name"].endswith("_KEY")} == {
        v["name"] for v in variables if v.get("isSecret")
    }


def test_importing_the_server_leaves_the_teacher_and_the_student_out() -> None:
    """A client waits for the start, some give up after two seconds, and the server must not depend on either."""
    code = f"import sys, nanodistill_mcp.server.build; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_start_loads_only_what_it_uses() -> None:
    """Each of these is imported where it is first needed; one line at a module's top would undo it unseen."""
    code = f"import sys, nanodistill_mcp.server.build; print([m for m in {UNNEEDED_AT_START} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_every_locked_requirement_has_hashes() -> None:
    """Without one, pip refuses the whole lock in --require-hashes, and with it a swapped file is noticed."""
    entries = _lock_entries()
    assert len(entries) > 50
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_names_packages_and_versions_and_no_address() -> None:
    """Where packages come from is for each machine to say: an address would break another's mirror."""
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert [entry.split()[0] for entry in _lock_entries() if not re.match(r"[a-z0-9._-]+==[^\s;]+", entry)] == []


def test_the_lock_holds_no_release_before_its_time() -> None:
    """A pre-release is for trying out; the library that holds the keys came into the lock as one, unseen."""
    assert [entry for entry in _lock_entries() if re.match(r"\S+==\S*\d(a|b|rc|\.dev)\d", entry)] == []


def test_each_dependency_has_its_reason_and_is_imported_where_the_page_says(project: dict[str, Any]) -> None:
    """One that nobody can give a reason for is one to take out."""
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| .+ \| (.+) \|$", page, re.MULTILINE)
    asked = [re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in project["dependencies"]]
    assert [name for name, _ in rows] == list(dict.fromkeys(asked))
    for name, importers in rows:
        module = {"pyyaml": "yaml", "python-dotenv": "dotenv"}.get(name, name.replace("-", "_"))
        imports = re.compile(
            rf"^\s*(?:from|import) {module}\b|(?:import_module|find_spec)\(\"{module}\"\)", re.MULTILINE
        )
        package = ROOT / "nanodistill_mcp"
        found = {
            path.relative_to(package).parts[0].removesuffix(".py")
            for path in package.rglob("*.py")
            if imports.search(path.read_text(encoding="utf-8"))
        }
        assert importers == "most" or found == set(re.findall(r"`(\w+)`", importers)), name


def test_what_runs_elsewhere_is_pinned_to_commits_and_may_only_read() -> None:
    """A tag can be moved to other code; a job that may write can be made to."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}, path.name
        uses = re.findall(r"uses: (\S+)", text)
        assert [action for action in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == [], path.name
        assert "${{ github.event" not in text, path.name
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    assert jobs["steps"][-1]["run"] == "bash .ci/run"
    assert {each["os"].split("-")[0] for each in jobs["strategy"]["matrix"]["include"]} == {"ubuntu", "macos"}
    dependabot = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))
    assert all(each["cooldown"]["default-days"] >= 14 for each in dependabot["updates"])


def test_every_install_the_readme_tells_of_is_by_hash() -> None:
    """An install that is not takes whatever the index has that minute."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"^.*pip install.*$", readme, re.MULTILINE):
        for command in re.findall(r"pip install [^&`]*", line):
            assert "--require-hashes" in command or "--no-deps" in command, command


def test_the_lock_holds_what_pyproject_asks_for(project: dict[str, Any]) -> None:
    """A dependency that was added and not locked is missing in CI and nowhere else."""
    locked = {re.split("==", entry)[0] for entry in _lock_entries()}
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in asked}
    assert sorted(names - locked) == []


def test_the_wheel_holds_everything_that_is_read_at_run_time(wheel: Path) -> None:
    """Templates, tables and the demo's student are data: a build that forgets them still imports."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    in_tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "nanodistill_mcp").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "nanodistill_mcp/py.typed" in packed
    assert any(name.startswith("nanodistill_mcp/teacher/templates/") for name in packed)
    assert any(name.startswith("nanodistill_mcp/demo/data/") for name in packed)
    assert sorted(in_tree - packed) == []
    assert [name for name in packed - in_tree if ".dist-info/" not in name] == []


def test_the_wheel_is_small_enough_to_install_on_a_whim(wheel: Path) -> None:
    """Weights that slip in stay in every release."""
    assert wheel.stat().st_size < 5_000_000


def test_the_wheel_works_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """What users install is the wheel: its command answers, and its data is found beside its code."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import nanodistill_mcp.server.build\n"
        "from nanodistill_mcp.demo import task\n"
        "from nanodistill_mcp.demo.student import student_path\n"
        f"assert nanodistill_mcp.__file__.startswith({str(tmp_path)!r}), nanodistill_mcp.__file__\n"
        "print(len(task.seeds()), (student_path() / 'config.json').is_file())"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert found.stdout.strip() == "10 True", found.stderr


def _lock_entries() -> list[str]:
    """The lock's requirements, each on one line with its hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
