"""The first lines of a chat: what runs, whether it can be trusted, how to leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer import __version__

if TYPE_CHECKING:
    from edgeinfer.plan import Plan


def banner(plan: Plan) -> list[str]:
    """Plain lines. The demonstration says that it is one, and which command gets a real model."""
    lines = [
        f"edgeinfer {__version__} · {plan.model.title} · {plan.artifact.tier} on {plan.backend} · "
        f"context {plan.window.slots} tokens"
    ]
    if plan.artifact.embedded:
        lines.append("This is a 46M-parameter demonstration: it chats a little and gets facts wrong.")
        lines.append("`edgeinfer chat` gets the best real model for this machine.")
    lines.append(
        '/help shows the commands, """ starts a message of several lines, Ctrl-C stops an answer, Ctrl-D leaves.'
    )
    return lines
