"""What speculation is expected to bring, in words. The decoder measures it as it runs; this is said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["speculation_note"]

# `edgeinfer bench speculation` on two x86 cores: copied text, greedy, with every drafter. Wide weights leave the
# processor waiting for memory, so that more rows at once cost little; three exact rows cap Q4_K_M.
_COPIED: Final = {"F16": 2.0, "Q8_0": 1.5, "Q4_0": 1.3, "Q4_K_M": 1.1}


def speculation_note(
    drafters: Sequence[str], measured_tier: str, exit_at: tuple[int, int] | None, *, exact: bool
) -> str:
    """What is tried when, what it may bring, and what it does to the tokens. `exit_at` is (exit layer, layers).

    `measured_tier` is the tier where the figures above hold (llama.cpp on x86), else "".
    """
    when = {
        "lookup": "lookup where text repeats",
        "early-exit": f"early exit after layer {exit_at[0]} of {exit_at[1]} while it is sure"
        if exit_at
        else "early exit",
        "draft": "the draft model while it is sure",
    }
    tried = ", ".join(when[name] for name in drafters)
    copied = _COPIED.get(measured_tier) if "lookup" in drafters else None
    gain = f"about {copied:.1f} x on copied text, else little; " if copied else ""
    tokens = "same tokens as plain decoding" if exact else "rows equal plain ones within rounding"
    return f"{tried}; {gain}plain where that is quicker; {tokens}"
