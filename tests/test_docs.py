"""What the documentation says is what the code does."""

import importlib.util
import json
import re
from pathlib import Path

from nanodistill_mcp.server.tools import all_tools

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_options_is_the_one_the_code_checks() -> None:
    """A range that is documented and not checked, or the other way round, sends people in circles."""
    spec = importlib.util.spec_from_file_location("make_options", ROOT / "docs" / "make_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == module.page(), (
        "run: python docs/make_options.py"
    )


def test_the_readme_names_exactly_the_tools_there_are() -> None:
    """A tool that is promised and missing costs a user's trust."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == [tool.name for tool in all_tools()]


def test_every_tool_keeps_the_rules_of_the_surface() -> None:
    """Some clients refuse unions, some models lose the end of a long description, and a missing hint reads as the worst."""
    for tool in all_tools():
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values(), tool.name
        assert tool.parameters["additionalProperties"] is False, tool.name
        assert not re.search(r'"(anyOf|oneOf|allOf)"', json.dumps(tool.parameters)), tool.name
        assert len(re.findall(r"\.(?=\s|$)", tool.description)) <= 4, tool.name
        for name, schema in tool.parameters["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name}"


def test_each_proof_of_reliability_is_run_by_the_command_beside_it() -> None:
    """A command that selects nothing passes, and proves nothing."""
    told = re.findall(r"python -m pytest -m '(\w+) and slow'", (ROOT / "docs" / "reliability.md").read_text("utf-8"))
    proofs = [path.read_text("utf-8") for path in (ROOT / "tests" / "crash").glob("test_*.py")]
    marked = [re.findall(r"^pytestmark = pytest\.mark\.(\w+)$", proof, re.MULTILINE) for proof in proofs]
    assert sorted(told) == sorted(name for names in marked for name in names)
    assert all('id="full", marks=[pytest.mark.slow' in proof for proof in proofs)
