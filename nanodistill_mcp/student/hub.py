"""Students on the Hugging Face hub: what is cached here, what would have to be downloaded, and downloading it.

Never downloads code: no Python file is asked for, and only safetensors weights.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from nanodistill_mcp.errors import ConfigurationError, UserInputError

REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}\Z")
PINNED = re.compile(r"(?P<repo_id>[^@]+)@(?P<revision>[0-9a-f]{40})\Z")
"""A student at one commit, as a run keeps it: what was looked at is what is trained, wherever the branch has moved since."""

_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "README.md"]
_WEIGHTS = "model*.safetensors"
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Remote:
    """What the hub says of a student. Its small files are here; its weights may not be."""

    folder: Path
    elements: dict[str, int]
    """Elements of its tensors by type, packed ones in U32; empty when the hub does not say."""
    weight_bytes: int
    licence: str


def cached(student: str) -> Path | None:
    """The snapshot of a commit in the local cache, the newest where none is named; None when there is none. It may lack files."""
    repo_id, revision = _at(student)
    try:
        return Path(
            snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=["config.json"])
        )
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return None


def _at(student: str) -> tuple[str, str | None]:
    """The id and the commit of a student; None where no commit is named."""
    pinned = PINNED.match(student)
    return (pinned["repo_id"], pinned["revision"]) if pinned else (student, None)


def look_up(student: str) -> Remote:
    """Ask the hub about a student and fetch everything of it but the weights.

    Raises:
        UserInputError: There is no such student.
        ConfigurationError: It cannot be reached, or not without an account.
    """
    repo_id, revision = _at(student)
    with _errors(repo_id):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        # Not by info.sha: only a download by branch leaves the reference by which the cache is found again.
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=_SMALL_FILES, etag_timeout=_TIMEOUT_S)
    weights = [file.size or 0 for file in info.siblings or [] if fnmatch(file.rfilename, _WEIGHTS)]
    card = info.card_data.to_dict() if info.card_data else {}
    return Remote(
        folder=Path(folder),
        elements=dict(info.safetensors.parameters) if info.safetensors else {},
        weight_bytes=sum(weights),
        licence=str(card.get("license") or ""),
    )


def download(student: str) -> Path:
    """Download a student's weights. Interrupted, it goes on where it was.

    Raises:
        ConfigurationError: The hub cannot be reached, or not without an account.
    """
    repo_id, revision = _at(student)
    with _errors(repo_id):
        patterns = [*_SMALL_FILES, _WEIGHTS]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, etag_timeout=_TIMEOUT_S))


def stay_offline() -> None:
    """From here on this process asks the hub nothing: loading a tokenizer from a folder does, in some versions."""
    constants.HF_HUB_OFFLINE = True


@contextmanager
def _errors(repo_id: str) -> Generator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise ConfigurationError(
            f"The student {repo_id} is only for accounts that accepted its licence.",
            next_step="Accept it on its page of the hub and log in with 'hf auth login', or choose another student.",
        ) from error
    except RepositoryNotFoundError as error:
        raise UserInputError(
            f"The hub has no student {repo_id}, or it is private.",
            next_step="Check the name: an id is 'org/name', for example 'mlx-community/Qwen3-0.6B-4bit'.",
        ) from error
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        IncompleteSnapshotError,
        OfflineModeIsEnabled,
        httpx.HTTPError,
    ) as error:
        raise ConfigurationError(
            f"The student {repo_id} is not on this machine and the hub cannot be reached.",
            next_step="Connect to the internet and try again, or give the absolute path of a folder that holds a student.",
        ) from error
