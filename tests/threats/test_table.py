"""The page that lists threats and proofs names tests there are."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_proof_of_the_security_page_is_a_test_there_is() -> None:
    """A proof that was renamed or taken out would leave a threat without one, unseen."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.partition("## Threats and their proofs")[2]
    rows = re.findall(
        r"^\| (?!threat|---)(.+?) \| (.+?) \| `(tests/[\w/]+\.py)(?:::(test_\w+))?` \|$", section, re.MULTILINE
    )
    assert len(rows) == len(re.findall(r"^\| (?!threat|---)", section, re.MULTILINE)), "a row without a proof"
    for _, _, path, name in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), (path, name)
    numbered = {int(number) for number in re.findall(r"^\| T(\d+):", section, re.MULTILINE)}
    assert set(range(1, 16)) - numbered == {7}, "T7 is proved on the page on reliability"


FLOORS = {"starlette": (1, 0, 1), "mlx-lm": (0, 32), "mcp": (2, 3), "litellm": (1, 82, 9)}
"""Below: CVE-2026-48710 (a Host header passes for another path), CVE-2026-5843 (code from a model's folder), CVE-2025-66416 (no
check of Host on the loopback), and the two releases of LiteLLM that were trojaned."""


def test_no_locked_package_is_older_than_the_holes_that_are_known() -> None:
    """The lock is what people install."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name, floor in FLOORS.items():
        found = re.search(rf"^{name}==([\d.]+)", lock, re.MULTILINE)
        assert found, name
        assert tuple(int(part) for part in found[1].split(".")) >= floor, (name, found[1])
