"""Model files from strangers: read and checked before an engine sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeinfer.formats.artifact import check_artifact
    from edgeinfer.formats.gguf_header import GgufHeader, read_header
    from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
    from edgeinfer.formats.paths import check_digest, safe_join
    from edgeinfer.formats.safetensors_header import SafetensorsFolder
    from edgeinfer.formats.shape import facts_from_gguf, shape_from_gguf

__all__ = [
    "GgufHeader",
    "GgufTokenizer",
    "SafetensorsFolder",
    "check_artifact",
    "check_digest",
    "facts_from_gguf",
    "read_header",
    "safe_join",
    "shape_from_gguf",
]

_HOMES = {
    "GgufHeader": "gguf_header",
    "GgufTokenizer": "gguf_tokenizer",
    "SafetensorsFolder": "safetensors_header",
    "check_artifact": "artifact",
    "check_digest": "paths",
    "facts_from_gguf": "shape",
    "read_header": "gguf_header",
    "safe_join": "paths",
    "shape_from_gguf": "shape",
}


def __getattr__(name: str) -> object:
    """Import at first use, so that naming one format does not pay for the others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
