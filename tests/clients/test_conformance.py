"""The protocol's own suite. It needs that program: npm install @modelcontextprotocol/conformance@0.2.0-alpha.12."""

import os
import shutil

import pytest

from tests.clients.conformance import REVISIONS, run

CONFORMANCE = os.environ.get("CONFORMANCE", "conformance")
"""The suite's program, by name or path."""


@pytest.mark.clients
@pytest.mark.timeout(600)
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_protocols_own_suite_finds_nothing_it_is_not_expected_to(revision: str) -> None:
    """Both eras are spoken by clients of today, and each message is held against the protocol's schema."""
    found = shutil.which(CONFORMANCE)
    assert found, "install it, or say where it is with CONFORMANCE"
    code, printed = run(os.path.abspath(found), revision)
    assert code == 0, printed
