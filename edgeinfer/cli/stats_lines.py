"""The stats of an answer as text."""

from __future__ import annotations

from dataclasses import asdict

from edgeinfer.decode.stats import AnswerStats


def speedup(stats: AnswerStats) -> float | None:
    """Measured decode time with plain rounds only, divided by the measured decode time. None where nothing was drafted
    or no plain round was measured."""
    n_decoded = stats.emitted - 1
    if not stats.drafted or n_decoded < 1 or stats.decode_s <= 0 or stats.plain_s_per_token <= 0:
        return None
    return n_decoded * stats.plain_s_per_token / stats.decode_s


def stats_lines(stats: AnswerStats) -> list[str]:
    return [line for line in (speed_line(stats), draft_line(stats), arms_line(stats), window_line(stats)) if line]


def speed_line(stats: AnswerStats) -> str:
    return (
        f"{stats.emitted} tokens, {stats.tokens_per_s:.1f} tokens/s, first token {stats.first_token_s * 1000:.0f} ms; "
        f"prompt {stats.prompt}: {stats.reused} reused, {stats.prefilled} prefilled"
    )


def tokens_per_verify(stats: AnswerStats) -> float | None:
    """Mean tokens of a round with a drafter; None where there was no such round."""
    drafting = [arm for name, arm in stats.arms.items() if name != "none"]
    rounds = sum(arm.rounds for arm in drafting)
    return sum(arm.emitted for arm in drafting) / rounds if rounds else None


def draft_line(stats: AnswerStats) -> str:
    if not stats.drafted:
        return f"{stats.rounds} rounds, nothing drafted" if stats.rounds else ""
    parts = [
        f"{stats.rounds} rounds, {stats.drafted} drafted, {stats.accepted} accepted "
        f"(acceptance {stats.accepted / stats.drafted:.2f})",
        f"{tokens_per_verify(stats):.2f} tokens a verify",
    ]
    gain = speedup(stats)
    if gain is not None:
        parts.append(f"{gain:.2f} x plain decoding")
    return ", ".join(parts)


def arms_line(stats: AnswerStats) -> str:
    if set(stats.arms) <= {"none"}:
        return ""
    return "time by arm: " + ", ".join(
        f"{name} {arm.seconds * 1000:.0f} ms in {arm.rounds} rounds" for name, arm in sorted(stats.arms.items())
    )


def window_line(stats: AnswerStats) -> str:
    if not (stats.evicted or stats.reanchored or stats.reprefilled):
        return f"window: {stats.kept} kept"
    return (
        f"window: {stats.kept} kept, {stats.evicted} evicted, "
        f"{stats.reanchored} re-anchored, {stats.reprefilled} prefilled again"
    )


def stats_json(stats: AnswerStats) -> dict[str, object]:
    """The counts, and values computed from them."""
    return {
        **asdict(stats),
        "rounds": stats.rounds,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "acceptance": stats.accepted / stats.drafted if stats.drafted else None,
        "tokens_per_verify": tokens_per_verify(stats),
        "tokens_per_s": stats.tokens_per_s,
        "speedup": speedup(stats),
    }
