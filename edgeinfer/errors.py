"""Every error that a user can meet, and the exit code of each.

    EdgeInferError                    70
    ├── UsageError                     2   a flag, a value, a prompt that cannot be used
    │   └── ModelNotFound              2   no such model; near names in the hint
    ├── NoPlanFits                     3   nothing fits this device; every rejection listed
    ├── BackendUnavailable             3   the engine is not installed or cannot run here
    ├── ArtifactBad                    4   missing, truncated, wrong digest, refused format
    ├── DownloadFailed                 5   refused, gated, cut, disk full
    ├── EngineFailed                  70   the engine gave up while loading or decoding
    │   └── RewindError               70   the keys for that length are gone
    └── Canceled                     130   the person said stop

A message says what failed, with values and units, in one line. `hint` says what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactBad",
    "BackendUnavailable",
    "Canceled",
    "DownloadFailed",
    "EdgeInferError",
    "EngineFailed",
    "ModelNotFound",
    "NoPlanFits",
    "RewindError",
    "UsageError",
]


class EdgeInferError(Exception):
    """Base of the tree. `str(error)` is the one-line message; `hint` may be empty."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgeInferError):
    exit_code = 2


class ModelNotFound(UsageError):
    pass


class NoPlanFits(EdgeInferError):
    """`rejected` holds every candidate as `plan --json` shows it: model, tier, backend, reason, over_bytes."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", rejected: tuple[dict[str, object], ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.rejected = rejected


class BackendUnavailable(EdgeInferError):
    exit_code = 3


class ArtifactBad(EdgeInferError):
    exit_code = 4


class DownloadFailed(EdgeInferError):
    exit_code = 5


class EngineFailed(EdgeInferError):
    exit_code = 70


class RewindError(EngineFailed):
    pass


class Canceled(EdgeInferError):
    exit_code = 130
