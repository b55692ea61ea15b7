# ruff: noqa: E501 - a table
"""Mistakes seeded into the kernels, and what must catch each. `python -m tests.metal.mutants` prints the table of README.md.

Caught by: `value`, a comparison with float64 NumPy; `race`, `unwritten`, `bounds` and `diverge`, rules of the simulator; `address`,
AddressSanitizer; `undefined`, UndefinedBehaviorSanitizer; `clang`, the check of address spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.attend import LaunchShape
from edgeinfer.backends.mlx.kernels.launch import Launcher, source
from edgeinfer.window import WindowPolicy
from tests.metal.checks import (
    WIDE_POLICY,
    AttendCase,
    HeadCase,
    MatmulCase,
    PackCase,
    check_attend,
    check_head,
    check_matmul,
    check_pack,
)

Check = Callable[[Launcher], None]

SIGNS = {
    "value": r"off by|not finite|is not the best|smallest id|scales of|biases of|codes of|head .*: token",
    "race": r"threadgroup race",
    "unwritten": r"read before it was written",
    "diverge": r"divergent",
    "bounds": r"outside \[0",
    "address": r"heap-buffer-overflow|stack-buffer-overflow",
    "undefined": r"runtime error",
    "clang": r"clang:",
}


@dataclass(frozen=True)
class Mutant:
    what: str
    kernel: str
    old: str
    new: str
    caught_by: str
    check: str  # a key of CHECKS

    def texts(self) -> dict[str, tuple[str, str]]:
        """The kernel's (header, body) with the mistake. The text to replace must exist."""
        name = self.kernel.split(":")[-1]  # "ring:attend" is ring.h as attend includes it
        header, body = source(name)
        assert (header + body).count(self.old) >= 1, f"nothing to break: {self.old}"
        return {name: (header.replace(self.old, self.new), body.replace(self.old, self.new))}


SHORT = WindowPolicy(window=64, sink=0, block=16, limit=4096)
PLAIN = AttendCase(64, 8, mx.float32, group=1, n_rows=2, starts=(0, 56, 133))
GROUPED = replace(PLAIN, group=3)
SLIDING = replace(PLAIN, sliding=24, stored=SHORT)
LATE = replace(PLAIN, first=3, starts=(4, 133))
SPLIT = AttendCase(64, 4, mx.float32, group=1, n_rows=2, starts=(133,), shape=LaunchShape(2, 3), logits=True)
ONE_PASS = replace(SPLIT, shape=LaunchShape(2, 1))
WIDE = AttendCase(64, 8, mx.float32, group=1, n_rows=1, starts=(700,), policy=WIDE_POLICY)
UNEVEN = AttendCase(80, 4, mx.float32, group=1, n_rows=1, starts=(100,))


def attend(case: AttendCase) -> Check:
    return lambda launch: check_attend(case, launch)


def head(case: HeadCase) -> Check:
    return lambda launch: check_head(case, launch)


CHECKS: dict[str, Check] = {
    "attend": attend(PLAIN),
    "attend, grouped": attend(GROUPED),
    "attend, sliding": attend(SLIDING),
    "attend, late": attend(LATE),
    "attend, splits": attend(SPLIT),
    "attend, one pass": attend(ONE_PASS),
    "attend, wide": attend(WIDE),
    "attend, head of 80": attend(UNEVEN),
    "pack": lambda launch: check_pack(PackCase(80, 4, mx.float32), launch),
    "matmul": lambda launch: check_matmul(MatmulCase(4, mx.float32, 3), launch),
    "head": head(HeadCase(4, mx.float32)),
    "head, 6 bits": head(HeadCase(6, mx.float32)),
    "head, ties": head(HeadCase(4, mx.float32, n_ids=1100, norm=False, ties=(1030, 6, 5), n_rows=1, group=32)),
    "head, ties in a lane": head(HeadCase(4, mx.float32, norm=False, ties=(69, 37, 5), n_rows=1, max_parts=3)),
    "head, cap": head(HeadCase(8, mx.float32, softcap=5.0, n_rows=1)),
}


def mutant(what: str, kernel: str, old: str, new: str, caught_by: str, check: str) -> Mutant:
    return Mutant(what, kernel, old, new, caught_by, check)


MUTANTS = [
    mutant("sum not rescaled when the maximum grows", "attend", "sum[r][e] *= keep", "sum[r][e] *= 1.0f", "value", "attend, wide"),
    mutant("a query does not see itself", "ring:attend", "key > query", "key >= query", "value", "attend"),
    mutant(
        "eviction by token in place of by block",
        "ring:attend",
        "query / block * block - (window - block)",
        "query - window + 1",
        "value",
        "attend",
    ),
    mutant("slots of the first lap that hold nothing are read", "ring:attend", "position >= sink ? position : -1", "position", "value", "attend"),
    mutant("sliding window one too wide", "ring:attend", "query - key >= sliding", "query - key > sliding", "value", "attend, sliding"),
    mutant("keys before the first are read", "ring:attend", "key < first ||", "key < 0 ||", "value", "attend, late"),
    mutant("stored window taken for the visible one", "attend", "stored_sink, stored_window)", "sink, window)", "value", "attend, sliding"),
    mutant("values of slots that hold nothing are weighed", "attend", "present ? value[e] : 0.0f", "value[e]", "value", "attend"),
    mutant("query rows of a group taken in the wrong order", "attend", "start + (row0 + r) % n_rows", "start + (row0 + r) / G % n_rows", "value", "attend, grouped"),
    mutant("scale read from the bias", "ring:attend", "static_cast<float>(low_half(fetched.affine)), bias", "static_cast<float>(high_half(fetched.affine)), bias", "value", "attend"),
    mutant("groups of a head of 80 counted as 64", "ring:attend", "w / Row<BITS, D>::group_words", "w * Row<BITS, D>::per_word / 64", "value", "attend, head of 80"),
    mutant("no barrier before a row is joined", "attend", "      part_sum[sg] = total[r];\n    }\n    threadgroup_barrier(mem_flags::mem_threadgroup);", "      part_sum[sg] = total[r];\n    }", "unwritten|race", "attend"),
    mutant("no barrier before the next row is joined", "attend", "    }\n    threadgroup_barrier(mem_flags::mem_threadgroup);\n  }", "    }\n  }", "race", "attend"),
    mutant("barrier that half the threads skip", "attend", "    if (lane == 0) {\n      part_max[sg]", "    if (lane < LPK) threadgroup_barrier(mem_flags::mem_threadgroup);\n    if (lane == 0) {\n      part_max[sg]", "diverge", "attend"),
    mutant("shuffle inside a branch that lanes take differently", "attend", "if (sub == i + b) score[r] = dot[r];", "if (sub == i + b) score[r] = simd_shuffle_xor(dot[r], 0);", "diverge", "attend"),
    mutant("idle lanes write beyond their row", "attend", "if (w < Packed::words)", "if (w < LPK * WPL)", "race|bounds", "attend, head of 80"),
    mutant("idle lanes read beyond their row", "attend", "min(sub + k * LPK, Packed::words - 1)", "sub + k * LPK", "address", "attend, head of 80"),
    mutant("the last tile read past the ring", "attend", "min(first_key + i + b, last_key)", "(first_key + i + b)", "address", "attend"),
    mutant("learned sinks indexed by row", "attend", "logits[row / n_rows]", "logits[row]", "address", "attend, one pass"),
    mutant("learned sink left out of the sum", "attend_merge", "if (LOGITS) total += metal::exp(logits[row / n_rows] - top);", "", "value", "attend, splits"),
    mutant("split sums joined without their maxima", "attend_merge", "joined += partial[(first + s) * D + d] * metal::exp(stats[(first + s) * 2] - top)", "joined += partial[(first + s) * D + d]", "value", "attend, splits"),
    mutant("device pointer without its address space", "attend", "const device uint* words", "const uint* words", "clang", "clang"),
    mutant("threadgroup array handed to a thread pointer", "attend", "decode_word<KT, BITS>(fetched[b][k], value)", "decode_word<KT, BITS>(fetched[b][k], part)", "clang", "clang"),
    mutant("writes through an input", "pack_rows", "x[e] = is_v", "k[at] = x[e] = is_v", "clang", "clang"),
    mutant("codes cut in place of rounded", "pack_rows", "metal::rint(", "metal::floor(", "value", "pack"),
    mutant("scale and bias change places", "pack_rows", "as_type<ushort>(scale)) | (static_cast<uint>(as_type<ushort>(bias)) << 16)", "as_type<ushort>(bias)) | (static_cast<uint>(as_type<ushort>(scale)) << 16)", "value", "pack"),
    mutant("idle lanes take part in the minimum", "pack_rows", "float low = INFINITY, high = -INFINITY;", "float low = 0.0f, high = 0.0f;", "value", "pack"),
    mutant("more lanes pack than a group has words", "pack_rows", "if (lane < WPG) {\n    uint codes", "if (lane <= WPG) {\n    uint codes", "address|value", "pack"),
    mutant("no barrier after a tile is written", "rows_matmul", "width + start + k];\n    threadgroup_barrier(mem_flags::mem_threadgroup);", "width + start + k];", "unwritten|race", "matmul"),
    mutant("no barrier before a tile is replaced", "rows_matmul", "      }\n    }\n    threadgroup_barrier(mem_flags::mem_threadgroup);\n  }", "      }\n    }\n  }", "race", "matmul"),
    mutant("the last tile taken for a whole one", "rows_matmul", "min(TILE, width - start)", "TILE", "address", "matmul"),
    mutant("scales of the tile's first group", "rows_matmul", "unit * VALUES / GS", "start / GS", "value", "matmul"),
    mutant("bias left out of all rows but the first", "rows_matmul", "bias[j] * state_sum", "bias[j] * (m ? 0.0f : state_sum)", "value", "matmul"),
    mutant("outputs of one row written to the next", "rows_matmul", "static_cast<size_t>(row) * n_outs + out", "static_cast<size_t>((row + 1) % M) * n_outs + out", "value", "matmul"),
    mutant("matrix rows beyond the last are read", "rows_matmul", "min(first + j, n_outs - 1)", "first + j", "address", "matmul"),
    mutant("outputs beyond the last are written", "rows_matmul", "row < M && out < n_outs", "row < M", "address|value", "matmul"),
    mutant("the largest id wins a tie", "head_merge", "other_id < mine_id", "other_id > mine_id", "value", "head, ties"),
    mutant("a SIMD group ignores ties between lanes", "head_top1", "simd_min(best[m] == top ? id[m] : 0x7FFFFFFF)", "simd_max(best[m] == top ? id[m] : 0)", "value", "head, ties"),
    mutant("a lane keeps the last of equal logits", "head_top1", "if (mine > best[m]) {", "if (mine >= best[m]) {", "value", "head, ties in a lane"),
    mutant("last vocabulary rows read past the table", "head_top1", "min(first + j, last - 1)", "first + j", "address", "head"),
    mutant("no barrier after the normed state is written", "head_top1", "  }\n  threadgroup_barrier(mem_flags::mem_threadgroup);\n\n  // Lane j", "  }\n\n  // Lane j", "unwritten|race", "head"),
    mutant("no barrier after the sums of squares", "head_top1", "  if (NORM) {\n    threadgroup_barrier(mem_flags::mem_threadgroup);\n", "  if (NORM) {\n", "unwritten|race", "head"),
    mutant("parts of a row overwritten by the next row", "head_top1", "      ids_out[at] = all_id;\n    }\n    threadgroup_barrier(mem_flags::mem_threadgroup);", "      ids_out[at] = all_id;\n    }", "race", "head"),
    mutant("6-bit codes cut at a word", "head:head_top1", "if (shift + BITS > 32)", "if (shift + BITS > 64)", "value", "head, 6 bits"),
    mutant("shift by a whole word", "head:head_top1", "if (shift + BITS > 32) code |= w[word + 1] << (32 - shift);", "code |= w[(word + 1) % Unit<BITS>::words] << (32 - shift) & 0u;", "undefined", "head, 6 bits"),
    mutant("softcap after the sum", "head_top1", "if (CAP) mine = numbers[1]", "if (false) mine = numbers[1]", "value", "head, cap"),
]  # fmt: skip


def table() -> str:
    lines = ["| kernel | mistake | caught by |", "| --- | --- | --- |"]
    lines += [f"| {m.kernel.split(':')[-1]} | {m.what} | {m.caught_by.replace('|', ' or ')} |" for m in MUTANTS]
    return "\n".join(lines)


def caught(mutant: Mutant, message: str) -> bool:
    return any(re.search(SIGNS[sign], message) for sign in mutant.caught_by.split("|"))


def check_of(mutant: Mutant) -> Any:
    return CHECKS[mutant.check]


if __name__ == "__main__":
    print(table())
