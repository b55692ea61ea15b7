"""The measurements as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from edgeinfer.bench.report import table
from edgeinfer.bench.serve.measure import Measured, Pairs, percentile, ratios


def text_of_report(found: Measured, ceilings: Mapping[int, float]) -> str:
    return "\n".join([*throughput(found, ceilings), *waiting(found), *alone(found)])


def throughput(found: Measured, ceilings: Mapping[int, float]) -> Iterator[str]:
    rows = []
    for n, pairs in found.loads.items():
        ours, theirs = ([one.tokens_per_s for one in side] for side in (pairs.ours, pairs.theirs))
        share = median(ours) / ceilings[n]
        rows.append([str(n), f"{median(ours):.1f}", *other(theirs, ".1f"), ratio(ours, theirs), f"{share:.0%}"])
    yield "## Tokens per second of all clients together\n"
    yield (
        "From the first request to the last token, prompts included; the median of the runs. The ratio is that of each "
        "pair of runs: median, lowest and highest. The ceiling is what the engine decodes in steps of so many rows, "
        "without prompts and without a server; speculation can pass it. Both servers decode greedily, without a "
        "penalty for repetition. A bias against the tokens that end an answer gives every answer the same length.\n"
    )
    yield table(["clients", "edgeinfer", "llama.cpp", "ratio", "of the ceiling"], rows)
    yield from agreement(found)
    rows = []
    for n, pairs in found.loads.items():
        for name, side in (("edgeinfer", pairs.ours), ("llama.cpp", pairs.theirs)):
            first = [value for one in side for value in one.first_s]
            between = [value for one in side for value in one.between_s]
            if side:
                cells = [f"{1000 * percentile(values, at):.0f}" for values in (first, between) for at in (0.5, 0.95)]
                rows.append([str(n), name, *cells])
    yield "## Latency\n"
    yield (
        "Milliseconds to the first token, and between pieces of text: median and 95th percentile of all clients. A "
        "piece of edgeinfer's holds what was written in a 30th of a second.\n"
    )
    yield table(["clients", "server", "first, median", "first, 95 %", "between, median", "between, 95 %"], rows)


def agreement(found: Measured) -> Iterator[str]:
    """How many answers are the same: only then have both servers done the same work."""
    pairs = [
        (one, other)
        for of_clients in found.loads.values()
        for ours, theirs in zip(of_clients.ours, of_clients.theirs, strict=False)
        for one, other in zip(ours.texts, theirs.texts, strict=True)
    ]
    if pairs:
        n_same = sum(one == other for one, other in pairs)
        yield f"{n_same} of {len(pairs)} answers have the same text on both servers.\n"


def waiting(found: Measured) -> Iterator[str]:
    named = (
        ("longest gap of two running chats while a long prompt arrives", found.gaps),
        ("first token of the second turn of a long chat", found.second_turns),
        ("first token of a new chat with a system prompt seen before", found.systems),
    )
    yield "## Waiting\n"
    yield "Seconds; a ratio below 1 means that edgeinfer's clients wait less.\n"
    rows = [
        [what, f"{median(pairs.ours):.3f}", *other(pairs.theirs, ".3f"), ratio(pairs.ours, pairs.theirs)]
        for what, pairs in named
        if pairs.ours
    ]
    yield table(["", "edgeinfer", "llama.cpp", "ratio"], rows)


def alone(found: Measured) -> Iterator[str]:
    server, chat = found.alone.ours, found.alone.theirs
    yield "## One client, and `edgeinfer chat`\n"
    yield (
        f"After the first token a server of one conversation gives {median(server):.1f} tokens/s and `chat` "
        f"{median(chat):.1f}: {ratio(server, chat)} of it. Both have every drafter of the plan.\n"
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if not theirs:
        return "-"
    values = ratios(ours, theirs)
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def other(theirs: Sequence[float], form: str) -> list[str]:
    return [format(median(theirs), form) if theirs else "-"]


def verdicts(found: Measured) -> dict[str, bool]:
    """The claims, and whether this run bears them out."""
    said = {}
    for n, pairs in found.loads.items():
        if pairs.theirs:
            speeds = ([one.tokens_per_s for one in side] for side in (pairs.ours, pairs.theirs))
            said[f"{n} client{'s' * (n > 1)}: at least 1.0 of llama.cpp's tokens/s"] = median(ratios(*speeds)) >= 1.0
    if found.gaps.theirs:
        said["the longest gap is at most a third of llama.cpp's"] = median_ratio(found.gaps) <= 1 / 3
    said["one conversation: at least 0.97 of `edgeinfer chat`"] = median_ratio(found.alone) >= 0.97
    return said


def median_ratio(pairs: Pairs[float]) -> float:
    return median(ratios(pairs.ours, pairs.theirs))
