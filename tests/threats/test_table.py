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
