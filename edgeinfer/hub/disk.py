"""The disk of the cache: checks free space, and turns its errors into DownloadErrors."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeinfer.errors import DownloadError
from edgeinfer.hub.cache import cache_dir

__all__ = ["check_space", "disk_errors"]

SPARE_BYTES = 64 << 20  # left free on the disk


def check_space(what: str, n_bytes: int) -> None:
    """Raise DownloadError when the cache's disk has no room for `n_bytes` more of `what`."""
    folder = cache_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n_bytes and free < n_bytes + SPARE_BYTES:
        raise DownloadError(
            f"{what} needs {n_bytes / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB free",
            hint="free some space, or set HF_HOME to a larger disk",
        )


@contextmanager
def disk_errors(on_full: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn an OSError of the cache's disk into DownloadError; `on_full` runs first when the disk is full."""
    try:
        yield
    except OSError as error:
        where = f"{cache_dir()}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            on_full()
            raise DownloadError(f"the disk is full ({where})", hint="free some space, or set HF_HOME") from error
        raise DownloadError(
            f"the cache cannot be written ({where})", hint="set HF_HOME to a folder of yours"
        ) from error
