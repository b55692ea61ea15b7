"""Exports a phone bundle: the backend writes the program, and the chat template is described for the phone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeinfer.backends.executorch.export.bundle import export_bundle
from edgeinfer.chat.pieces import chat_pieces
from edgeinfer.chat.reasoning import NO_THINKING
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.formats.chat_pieces import ChatPieces
from edgeinfer.formats.manifest import Manifest
from edgeinfer.protocols import Tokenizer

__all__ = ["describe_chat", "export"]


def export(model: Path, out: Path, tier: Literal["8da4w", "8da8w", "fp32", "fp16"]) -> Manifest:
    """Raises what `export_bundle` raises."""
    return export_bundle(model, out, tier, describe_chat)


def describe_chat(tokenizer: Tokenizer) -> ChatPieces:
    """Raises ArtifactError for a template that a phone cannot write."""
    renderer = Renderer()
    try:
        source = tokenizer.chat_template or CHATML
        template = Template(renderer, source, bos=tokenizer.bos_text, eos=tokenizer.eos_text)
        return chat_pieces(template, tokenizer, NO_THINKING)
    finally:
        renderer.close()
