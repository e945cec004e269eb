"""Repositories of Hugging Face, `hf://owner/name`, as zoos."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared_moe_conformer.config import require
from shared_moe_conformer.release.card import MARK, zoo_card
from shared_moe_conformer.release.manifest import CARD_FILE
from shared_moe_conformer.release.zoo_index import INDEX_FILE, MAX_INDEX, ZooEntry, parse_index, with_entry, write_index
from shared_moe_conformer.text import first_line

HUB = "hf://"


def hub_download(location: str, path: str, target: Path, *, max_bytes: int) -> None:
    """Copy a file of a repository by way of huggingface_hub's cache, which resumes.

    Raises:
      FileNotFoundError: no such repository or file.
      ValueError: it is longer than allowed, or the download fails.
    """
    with _hub_errors(f"{location}/{path}"):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        repo_id, revision = _repository(location)
        size = get_hf_file_metadata(hf_hub_url(repo_id, path, revision=revision)).size
        require(size is not None and size <= max_bytes, f"{location}/{path} is longer than its zoo's index says")
        cached = hf_hub_download(repo_id, path, revision=revision)
        shutil.copyfile(cached, target)


def hub_upload(folder: Path, entry: ZooEntry, location: str) -> None:
    """Put a bundle and its entry into a repository in one commit; the repository is created if it does not exist.

    Raises:
      ValueError: the repository cannot be written, or somebody else has just written its index.
    """
    repo_id, revision = _repository(location)
    with _hub_errors(location):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        commit = _commit_of_index(location)
        files = {f"{entry.path}/{path.name}": path for path in folder.iterdir()}
        with tempfile.TemporaryDirectory() as temporary:
            files |= _front_pages(entry, f"{HUB}{repo_id}", commit, Path(temporary))
            api.create_commit(
                repo_id,
                operations=[CommitOperationAdd(name, str(path)) for name, path in sorted(files.items())],
                commit_message=f"Add {entry.name}",
                revision=revision,
                parent_commit=commit,  # the index of no other commit is replaced
            )


def require_repository(location: str) -> None:
    """Raise `ValueError` unless an address is that of a repository."""
    require(location.startswith(HUB), f"{location} is not a repository of Hugging Face: give {HUB}owner/name")
    _repository(location)


def hub_upload_files(source: Path, location: str) -> None:
    """Put a file, or all files of a folder, into a repository in one commit; the repository is created if needed.

    Raises:
      ValueError: no such address, or the repository cannot be written.
    """
    require_repository(location)
    repo_id, revision = _repository(location)
    common: dict[str, Any] = {"repo_id": repo_id, "revision": revision, "commit_message": f"Add {source.name}"}
    with _hub_errors(location):
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        if source.is_dir():
            api.upload_folder(folder_path=source, **common)
        else:
            api.upload_file(path_or_fileobj=source, path_in_repo=source.name, **common)


def _commit_of_index(location: str) -> str | None:
    """The commit of a revision of a repository; None if it holds no index yet."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repo_id, revision = _repository(location)
    try:
        commit = get_hf_file_metadata(hf_hub_url(repo_id, INDEX_FILE, revision=revision)).commit_hash
    except EntryNotFoundError:
        return None
    require(commit is not None, f"{location} does not tell its commit")
    return commit


def _front_pages(entry: ZooEntry, zoo: str, commit: str | None, folder: Path) -> dict[str, Path]:
    """The index with an entry added, and the zoo's card unless somebody wrote one by hand."""
    files = {name: folder / name for name in (INDEX_FILE, CARD_FILE)}
    index, card = files.values()
    entries: list[ZooEntry] = []
    if commit:
        hub_download(f"{zoo}@{commit}", INDEX_FILE, index, max_bytes=MAX_INDEX)
        entries = parse_index(index.read_bytes(), source=f"{zoo}/{INDEX_FILE}")
    with contextlib.suppress(FileNotFoundError):
        hub_download(f"{zoo}@{commit}" if commit else zoo, CARD_FILE, card, max_bytes=MAX_INDEX)
    entries = with_entry(entries, entry)
    write_index(entries, index)
    if card.is_file() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        return {INDEX_FILE: index}
    card.write_text(zoo_card(entries, location=zoo), encoding="utf-8")
    return files


def _repository(location: str) -> tuple[str, str | None]:
    """The repository's name and, after `@`, its revision."""
    repo_id, _, revision = location.removeprefix(HUB).strip("/").partition("@")
    require(repo_id.count("/") == 1, f"{location}: give {HUB}owner/name, or {HUB}owner/name@revision")
    return repo_id, revision or None


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn the library's many errors into few that a person can act on."""
    found = importlib.util.find_spec("huggingface_hub") is not None
    require(found, f"{what}: the package huggingface_hub is not installed: pip install huggingface_hub")
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{what} cannot be reached now: {first_line(error)}") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"{what} does not exist, or is private: check its name, or log in") from error
    except HfHubHTTPError as error:
        if error.response.status_code == http.client.PRECONDITION_FAILED:
            raise ValueError(f"{what} was changed by somebody else at this moment: push again") from error
        raise ValueError(f"{what}: {first_line(error)}") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # errors of the HTTP library, which differs between versions of huggingface_hub
        raise ValueError(f"{what} cannot be reached now: {error}") from error
