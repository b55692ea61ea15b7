"""Every error that a user can meet, and the exit code of each.

    EdgeInferError                    70
    ├── UsageError                     2   a flag, a value, a prompt that cannot be used
    │   ├── ModelNotFoundError         2   no such model; near names in the hint
    │   └── PromptTooLongError         2   the window or the model has fewer positions
    ├── NoPlanError                    3   nothing fits this device; every rejection listed
    ├── BackendError                   3   the engine is not installed or cannot run
    ├── ArtifactError                  4   missing, truncated, wrong digest, refused format
    ├── DownloadError                  5   refused, gated, cut, disk full
    ├── EngineError                   70   the engine failed while loading or decoding
    │   └── RewindError               70   the keys for that length are gone
    └── CanceledError                130   the user stopped it

A message says what failed, with values and units, in one line. `hint` says what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BackendError",
    "CanceledError",
    "DownloadError",
    "EdgeInferError",
    "EngineError",
    "ModelNotFoundError",
    "NoPlanError",
    "PromptTooLongError",
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


class ModelNotFoundError(UsageError):
    pass


class PromptTooLongError(UsageError):
    pass


class NoPlanError(EdgeInferError):
    """`rejected` holds every candidate as `plan --json` shows it: model, tier, backend, reason, over_bytes."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", rejected: tuple[dict[str, object], ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.rejected = rejected


class BackendError(EdgeInferError):
    exit_code = 3


class ArtifactError(EdgeInferError):
    exit_code = 4


class DownloadError(EdgeInferError):
    exit_code = 5


class EngineError(EdgeInferError):
    exit_code = 70


class RewindError(EngineError):
    pass


class CanceledError(EdgeInferError):
    exit_code = 130
