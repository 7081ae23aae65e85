"""Models on the Hugging Face hub, through huggingface_hub with its own cache and settings.

huggingface_hub is slow to import, so only the functions that need it import it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reverie.errors import ModelError
from reverie.models.disk import FULL, verify
from reverie.models.progress import Progress, Show, ShownProgress
from reverie.models.reference import HubReference

_PREFERRED = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0", "Q4_1", "F16", "BF16")
"""Quantisations in order of preference: the smaller ones that are still good come first."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def find_in_cache(reference: HubReference) -> Path | None:
    """The model's file in huggingface_hub's cache, or None. Doesn't use the network.

    Of a split model, this is the first part, and all parts are in the cache.

    Raises:
        ModelError: the cache can't be read, or the repository's name is invalid.
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
    """The complete models in huggingface_hub's cache, each with its file and its size in bytes."""
    with _translated(None):
        repos = _cached_repos()
    found = []
    for repo, files in sorted(repos.items()):
        for file in _model_files(files):
            reference = HubReference(repo, file)
            if (path := find_in_cache(reference)) is not None:
                parts = [path.parent / Path(part).name for part in parts_of(file)]
                found.append((reference, path, sum(part.stat().st_size for part in parts)))
    return found


def _cached_repos() -> dict[str, set[str]]:
    """OWNER/REPO → the names of its files in the cache."""
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


def fetch_from_hub(reference: HubReference, show: Show = ShownProgress) -> Path:
    """Download the model, all parts of it. Gives the path of its file, or of the first part.

    huggingface_hub resumes when a connection breaks, but not what another process began.

    Raises:
        ModelError: it can't be downloaded; the message says what to do.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with _translated(reference):
        file = reference.file or choose(HfApi().list_repo_files(reference.repo))
        if file is None:
            raise ModelError(f"The repository {reference.repo} holds no .gguf file.")
        parts = parts_of(file)
        found = [hf_hub_download(reference.repo, part, dry_run=True) for part in parts]
        total = sum(one.file_size or 0 for one in found if one.will_download)
        paths = []
        with show(f"{reference.repo}/{file}", total) as progress:
            bar = _bar_for(progress)
            for part in parts:
                paths.append(Path(hf_hub_download(reference.repo, part, tqdm_class=bar)))
                _verify(paths[-1], f"{reference.repo}/{part}")
    return paths[0]


def _bar_for(progress: Progress) -> Any:
    """A class of bars for huggingface_hub, which show nothing and tell ``progress``."""
    from huggingface_hub.utils.tqdm import tqdm

    done = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]
            # Its fast protocol has two bars: one for what was written, one for what came.
            self._counts = "downloading bytes" not in str(options.get("desc"))

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self._counts:
                done += int(n or 0)
                progress.update(done)

    return Bar


def _verify(file: Path, what: str) -> None:
    """Check the SHA-256. The cache names a large file by it; huggingface_hub checks only the size.

    Raises:
        ModelError: the checksum is wrong, and the file was removed.
    """
    blob = file.resolve()
    if _SHA256.fullmatch(blob.name):
        verify(blob, blob.name, what)


def choose(files: Iterable[str]) -> str | None:
    """The GGUF file to use if the reference names none, by ``_PREFERRED``; None without any."""
    candidates = _model_files(files)
    for quantisation in _PREFERRED:
        for file in candidates:
            if re.search(rf"(?<![a-z0-9]){quantisation}(?![a-z0-9_])", file, re.IGNORECASE):
                return file
    return candidates[0] if candidates else None


def _model_files(files: Iterable[str]) -> list[str]:
    """The GGUF models among these files, sorted. Of a split model, only the first part."""
    models = sorted(
        file
        for file in files
        if file.lower().endswith(".gguf") and not Path(file).name.lower().startswith("mmproj")
    )
    return [file for file in models if not (m := _PART.fullmatch(file)) or "-00001-of-" in m[0]]


def parts_of(file: str) -> list[str]:
    """All parts of a split model, in order; for any other model, the file itself."""
    match = _PART.fullmatch(file)
    if match is None:
        return [file]
    stem, count = match.groups()
    return [f"{stem}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1)]


@contextmanager
def _translated(reference: HubReference | None) -> Generator[None, None, None]:
    """Turn huggingface_hub's exceptions into ``ModelError``; this is the only place that does."""
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
