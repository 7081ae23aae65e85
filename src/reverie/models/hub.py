"""Models on the Hugging Face hub, through huggingface_hub: its cache, its token, its mirrors.

huggingface_hub is slow to import, so it is imported only where it is used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import ModelError
from reverie.models.disk import FULL, verify
from reverie.models.progress import say
from reverie.models.reference import HubReference

_PREFERRED = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0", "Q4_1", "F16", "BF16")
"""The quantisations to take first where a repository has several: small, and good enough."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def find_in_cache(reference: HubReference) -> Path | None:
    """The file if it is in huggingface_hub's cache, without asking the network.

    Raises:
        ModelError: the cache can't be read, or no repository can have that name.
    """
    from huggingface_hub import try_to_load_from_cache

    with _translated(reference):
        file = reference.file or choose(_cached_repos().get(reference.repo, ()))
        if file is None:
            return None
        paths = [try_to_load_from_cache(reference.repo, part) for part in parts_of(file)]
    if not all(isinstance(path, str) for path in paths):
        return None
    return Path(str(paths[0]))


def cached_models() -> list[tuple[HubReference, Path, int]]:
    """Every model in huggingface_hub's cache that is whole: its file, and its size in bytes."""
    with _translated(None):
        repos = _cached_repos()
    found = []
    for repo, files in sorted(repos.items()):
        for file in _firsts(files):
            reference = HubReference(repo, file)
            if (path := find_in_cache(reference)) is not None:
                parts = [path.parent / Path(part).name for part in parts_of(file)]
                found.append((reference, path, sum(part.stat().st_size for part in parts)))
    return found


def _cached_repos() -> dict[str, set[str]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    return {
        repo.repo_id: {
            str(file.file_path.relative_to(revision.snapshot_path))
            for revision in repo.revisions
            for file in revision.files
        }
        for repo in repos
        if repo.repo_type == "model"
    }


def fetch_from_hub(reference: HubReference) -> Path:
    """Fetch the file. A connection that breaks is taken up; a process that ends begins again.

    Raises:
        ModelError: it can't be had; the message says what to do.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with _translated(reference):
        file = reference.file or choose(HfApi().list_repo_files(reference.repo))
        if file is None:
            raise ModelError(f"The repository {reference.repo} holds no .gguf file.")
        paths = []
        for part in parts_of(file):
            with _plain_progress(f"{reference.repo}/{part}"):
                paths.append(Path(hf_hub_download(reference.repo, part)))
                _verify(paths[-1], f"{reference.repo}/{part}")
    return paths[0]


def _verify(file: Path, what: str) -> None:
    """Check the hash, after which the cache names a large file; huggingface_hub checks the size.

    Raises:
        ModelError: it is another file, and was removed.
    """
    blob = file.resolve()
    if _SHA256.fullmatch(blob.name):
        verify(blob, blob.name, what)


@contextmanager
def _plain_progress(what: str) -> Generator[None, None, None]:
    """huggingface_hub shows a bar on a terminal, and nothing elsewhere."""
    plain = not sys.stderr.isatty()
    if plain:
        say(f"fetching {what}")
    yield
    if plain:
        say(f"fetched {what}")


def choose(files: Iterable[str]) -> str | None:
    """The GGUF file to take where none is named: the only one, or the most sensible one."""
    firsts = _firsts(files)
    for quantisation in _PREFERRED:
        for file in firsts:
            if re.search(rf"(?<![a-z0-9]){quantisation}(?![a-z0-9_])", file, re.IGNORECASE):
                return file
    return firsts[0] if firsts else None


def _firsts(files: Iterable[str]) -> list[str]:
    """The files of models among others, sorted; of a split one, its first part."""
    models = sorted(
        file
        for file in files
        if file.lower().endswith(".gguf") and not Path(file).name.lower().startswith("mmproj")
    )
    return [file for file in models if not (m := _PART.fullmatch(file)) or "-00001-of-" in m[0]]


def parts_of(file: str) -> list[str]:
    """All the files of a model that is split, beginning with the first; else the file itself."""
    match = _PART.fullmatch(file)
    if match is None:
        return [file]
    stem, count = match.groups()
    return [f"{stem}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1)]


@contextmanager
def _translated(reference: HubReference | None) -> Generator[None, None, None]:
    """huggingface_hub's exceptions as ours, here and nowhere else."""
    import httpx2
    from huggingface_hub import errors

    repo, file = reference or ("the cache", None)
    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo} is gated. Ask for access on its page, then set HF_TOKEN to a token with it."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"There is no repository {repo}, or it is private: then set HF_TOKEN."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _unreachable(repo, error.__cause__) from None
    except errors.EntryNotFoundError:
        raise ModelError(f"{repo} holds no file {file}.") from None
    except errors.HFValidationError:
        raise ModelError(f"{repo} is not a repository's name.") from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ModelError(f"The hub does not give {repo} to the token in HF_TOKEN.") from None
        raise _unreachable(repo, error) from None
    except OSError as error:
        if error.errno in FULL:
            raise ModelError(
                "The disk is full. Make room, or set HF_HOME to another disk."
            ) from None
        raise ModelError(f"{repo} can't be fetched: {error.strerror or error}.") from None
    except httpx2.TransportError as error:
        raise _unreachable(repo, error) from None
    except (httpx2.HTTPError, ValueError) as error:
        raise ModelError(f"{repo} can't be fetched: {type(error).__name__}. Try again.") from None


def _unreachable(repo: str, cause: BaseException | None) -> ModelError:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(cause, HfHubHTTPError):
        return ModelError(
            f"The hub answered {cause.response.status_code} for {repo}. Try again later."
        )
    return ModelError(
        f"The hub can't be reached for {repo}, and the file is not in the cache. Check the "
        "connection, HF_ENDPOINT and HF_HUB_OFFLINE."
    )
