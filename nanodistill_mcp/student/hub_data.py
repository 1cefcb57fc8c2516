"""One named file of a dataset on the Hugging Face hub, at one commit. No code of a dataset is ever asked for."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from nanodistill_mcp.errors import ConfigurationError, UserInputError

_TIMEOUT_S = 30.0
_SHOWN = 20


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset as it lies in the cache, and the commit it is of."""

    path: Path
    file: str
    revision: str


def fetch_data_file(dataset: str, file: str, revision: str, endings: tuple[str, ...]) -> HubFile:
    """Download a file of a dataset; interrupted, the same call goes on.

    Args:
        dataset: Its id, ``org/name``.
        file: Its path there; when empty, the only file that ends in one of the endings.
        revision: A commit, a tag or a branch; the newest commit when empty.
        endings: What a file of rows ends in.

    Raises:
        UserInputError: There is no such dataset or file, or several files and none was named.
        ConfigurationError: The hub cannot be reached, or not without an account.
    """
    try:
        info = HfApi().dataset_info(dataset, revision=revision or None, timeout=_TIMEOUT_S)
        names = [sibling.rfilename for sibling in info.siblings or [] if sibling.rfilename.lower().endswith(endings)]
        if not file and len(names) != 1:
            raise UserInputError(
                f"{dataset} has {len(names)} files of rows.",
                next_step=f"Name one with --file: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}.",
            )
        chosen, commit = file or names[0], info.sha or revision
        path = hf_hub_download(dataset, chosen, repo_type="dataset", revision=commit, etag_timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise ConfigurationError(
            f"The dataset {dataset} is only for accounts that accepted its terms.",
            next_step="Accept them on its page of the hub and log in with 'hf auth login'.",
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(dataset) from error
        raise UserInputError(
            f"The hub has no dataset {dataset} with that file and revision, or it is private.",
            next_step="Check --file and --revision: both as the dataset's page shows them.",
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise _unreachable(dataset) from error
    return HubFile(Path(path), chosen, commit)


def _unreachable(dataset: str) -> ConfigurationError:
    return ConfigurationError(
        f"The dataset {dataset} cannot be fetched: the hub does not answer.",
        next_step="Connect to the internet and try again, or download the file and name it.",
    )
