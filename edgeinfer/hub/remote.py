"""The hub over the network: what a repository holds, a file's header alone, and the hub's errors as EdgeInferErrors.

Everything goes through huggingface_hub's session (its proxies, its token, its offline switch), in plain HTTP requests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import ArtifactError, DownloadError, EdgeInferError, ModelNotFoundError
from edgeinfer.formats.gguf_header import GgufHeader, parse_header
from edgeinfer.formats.paths import check_relative, is_pickle_name
from edgeinfer.hub.cache import COMMIT, SHA256, is_offline
from edgeinfer.hub.file_names import part_names
from edgeinfer.hub.names import check_repo, near

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["RemoteFile", "RemoteRepo", "endpoint", "hub_errors", "look_up", "open_range", "remote_header"]

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    file: str
    n_bytes: int
    sha256: str  # "" for a small file that the hub keeps in git


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A repository at one commit. Pickles and file names that could lead out of a folder are left out of `files`."""

    repo: str
    revision: str  # the commit
    files: tuple[RemoteFile, ...]
    license: str
    gated: bool
    base_model: str

    def file(self, name: str) -> RemoteFile:
        for file in self.files:
            if file.file == name:
                return file
        names = [file.file for file in self.files]
        raise ModelNotFoundError(f"{self.repo} has no file {name[:120]}", hint=near(name, names) or self.url)

    def parts(self, name: str) -> list[RemoteFile]:
        """`name`, or all parts of the split file that it begins. Raises ModelNotFoundError for one not listed."""
        return [self.file(part) for part in part_names(name)]

    @property
    def url(self) -> str:
        return f"{endpoint()}/{self.repo}"


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def look_up(repo: str, revision: str = "") -> RemoteRepo:
    """What `repo` holds at `revision` ("" is main), with sizes and digests. Asks the network once."""
    check_repo(repo)
    with hub_errors(repo, revision=revision):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), library_name="edgeinfer")
        try:
            info = api.model_info(repo, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DownloadError(
                f"{endpoint()} gave an answer that cannot be read for {repo}: {error!r:.120}"
            ) from error
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise ArtifactError(f"the hub names no commit for {repo}: {str(info.sha)[:60]!r}")
    card: dict[str, Any] = vars(info.card_data) if info.card_data else {}
    base = card.get("base_model")
    files = [_remote_file(sibling) for sibling in info.siblings or ()]
    return RemoteRepo(
        repo=repo,
        revision=info.sha,
        files=tuple(file for file in files if file),
        license=str(card.get("license") or ""),
        gated=bool(info.gated),
        base_model=str(base[0] if isinstance(base, list) and base else base or ""),
    )


def remote_header(repo: str, file: str, revision: str = "") -> GgufHeader:
    """The header of a GGUF on the hub, with its structure checked. Only its first bytes are requested."""
    n_bytes = look_up(repo, revision).file(check_relative(file)).n_bytes

    def fetch(offset: int, length: int) -> bytes:
        end = min(offset + length, n_bytes) - 1
        with hub_errors(repo, file, revision), open_range(repo, file, revision, offset, end) as response:
            if response.status_code != 206:
                raise DownloadError(f"the hub sent all of {file}, not bytes {offset} to {end}")
            data = b""
            for piece in response.iter_bytes():
                data += piece
                if len(data) > length:
                    raise ArtifactError(f"the hub sent more than the {length} bytes of {file} that were asked for")
            return data

    return parse_header(fetch, n_bytes, f"{repo}/{file}")


@contextmanager
def open_range(repo: str, file: str, revision: str, first: int, last: int | None = None) -> Iterator[Any]:
    """A streamed answer with bytes `first` to `last` of the file; from the start and to the end it is a plain GET."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, file, revision=revision or None, endpoint=endpoint())
    headers = build_hf_headers(library_name="edgeinfer") | {"Accept-Encoding": "identity"}
    if first or last is not None:
        headers["Range"] = f"bytes={first}-{'' if last is None else last}"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response:
        if response.status_code != 416:  # "no such range" is an answer, not a failure
            hf_raise_for_status(response)
        yield response


@contextmanager
def hub_errors(repo: str, file: str = "", revision: str = "") -> Iterator[None]:
    """Turn exceptions of huggingface_hub and its HTTP client into EdgeInferErrors. Sets its switches before the
    import."""
    if is_offline():
        raise DownloadError(
            f"{repo} is not complete in the cache, and HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to download"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import errors

    _check_token_file()
    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # HTTPError of httpx or httpx2
    try:
        yield
    except EdgeInferError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(f"{repo} is not complete in the cache, and the hub client is offline") from error
    except errors.HfHubHTTPError as error:
        raise _http_error(error, repo, file, revision) from error
    except (transport, errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        what = str(error) or type(error).__name__
        raise DownloadError(
            f"{endpoint()} does not answer: {what[:160]}", hint="check the network, then run the same command again"
        ) from error


def _check_token_file() -> None:
    """Every request of huggingface_hub reads the token's file, and stops at one that is there and cannot be read."""
    from huggingface_hub import get_token

    try:
        get_token()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DownloadError(
            f"the hub's token at HF_HOME/token cannot be read: {why}",
            hint="set HF_HOME to a folder of yours, or HF_TOKEN_PATH to another file",
        ) from error


def _http_error(error: HfHubHTTPError, repo: str, file: str, revision: str) -> EdgeInferError:
    from huggingface_hub import errors

    status = error.response.status_code
    page = f"{endpoint()}/{repo}"
    has_token = bool(os.environ.get("HF_TOKEN"))
    token = (
        "with the account of your HF_TOKEN"
        if has_token
        else f"then set HF_TOKEN to a token from {endpoint()}/settings/tokens"
    )
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{repo} is gated (HTTP {status})", hint=f"accept its license at {page} {token}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no revision {revision[:80] or 'main'}", hint=f"see {page}/commits")
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFoundError(f"{repo} has no file {file[:120]}", hint=f"see {page}/tree/main")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"there is no repository {repo}, or it is private (HTTP {status})",
            hint=f"check the spelling; for a private one set HF_TOKEN and see {page}",
        )
    if status in (401, 403):
        return DownloadError(f"{repo} is refused (HTTP {status})", hint=f"accept its license at {page} {token}")
    if status == 429:
        return DownloadError(
            "the hub asks to wait (HTTP 429: too many requests)", hint="try again later, or set HF_TOKEN"
        )
    return DownloadError(f"the hub answers HTTP {status} for {repo}/{file}".rstrip("/"), hint="try again later")


def _remote_file(sibling: Any) -> RemoteFile | None:
    name = sibling.rfilename
    try:
        check_relative(name)
    except ArtifactError:
        return None
    size = sibling.size
    if is_pickle_name(name) or not isinstance(size, int) or size < 0:
        return None
    digest = sibling.lfs.sha256 if sibling.lfs else ""
    return RemoteFile(name, size, f"sha256:{digest}" if SHA256.fullmatch(digest) else "")
