"""Seeded mistakes in the window, the round and the loop, one patch each. The suite must catch every one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

from edgeinfer.backends.reference import cache as reference_cache
from edgeinfer.backends.reference import model as reference_model
from edgeinfer.backends.reference.cache import ReferenceCache, ReferenceRound
from edgeinfer.backends.reference.model import ReferenceModel
from edgeinfer.backends.taught import ExitDrafts, FeatureDrafts, RankedRow, TapLog
from edgeinfer.decode import loop, noise, sampler, timeline
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.target import Target
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.protocols import Ask
from edgeinfer.types import Sampling, common_prefix
from edgeinfer.window import WindowPolicy
from tests.conformance import blocks, checks, drafted, gguf_mutants, mlx_mutants, together
from tests.conformance.backends import (
    EXECUTORCH_EXIT_DRAFT,
    EXECUTORCH_FEATURE,
    EXIT_DRAFT,
    EXIT_DRAFT_GGUF,
    EXIT_STREAMS,
    MLX_EXIT_DRAFT,
    MLX_PACKED,
    MLX_TAUGHT,
    STREAMS,
    SUBJECTS,
    TAUGHT,
    TAUGHT_GGUF,
    TAUGHT_STREAMS,
    Subject,
)
from tests.conformance.plain import GREEDY, SAMPLED, Check

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    name: str
    patch: Patch
    check: Check  # the check that must catch it
    subject: Subject = SUBJECTS[0]


def window_one_longer(patch: pytest.MonkeyPatch) -> None:
    true = WindowPolicy.oldest
    patch.setattr(WindowPolicy, "oldest", lambda self, query: max(0, true(self, query) - 1))


def window_one_shorter(patch: pytest.MonkeyPatch) -> None:
    true = WindowPolicy.oldest
    patch.setattr(WindowPolicy, "oldest", lambda self, query: true(self, query) + (true(self, query) > 0))


def ring_one_slot_short(patch: pytest.MonkeyPatch) -> None:
    def slot(self: WindowPolicy, position: int) -> int:
        return position if position < self.sink else self.sink + position % (self.window - 1)

    patch.setattr(WindowPolicy, "slot", slot)


def sink_overwritten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WindowPolicy, "slot", lambda self, position: position % self.slots)


def batch_across_a_block_boundary(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WindowPolicy, "room", lambda self, length: min(self.window, self.limit - length))


def rewind_to_evicted_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WindowPolicy, "can_rewind", lambda self, length, target: 0 <= target <= length)


def one_rejected_token_kept(patch: pytest.MonkeyPatch) -> None:
    true = ReferenceRound.commit
    patch.setattr(ReferenceRound, "commit", lambda self, n: true(self, min(n + 1, self._guard.n_verified)))


def rejected_rows_all_kept(patch: pytest.MonkeyPatch) -> None:
    true = ReferenceRound.commit
    patch.setattr(ReferenceRound, "commit", lambda self, n: true(self, self._guard.n_verified))


def rollback_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReferenceRound, "rollback", lambda self: None)


def rollback_keeps_what_was_verified(patch: pytest.MonkeyPatch) -> None:
    def rollback(self: ReferenceRound) -> None:
        if self._guard.end():
            self._cache.end_round(self._guard.n_verified)

    patch.setattr(ReferenceRound, "rollback", rollback)


def early_layers_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """The early layers keep the keys of rejected drafts: a key that was written is not overwritten."""
    true_forward, true_rewind = ReferenceModel.forward, ReferenceCache.rewind
    ahead: dict[int, int] = {}  # keyed by the identity of a cache's rings

    def forward(self: Any, packed: Any, layers: range) -> Any:
        early = layers.start == 0 and layers.stop == self.exit_layer
        before = [written_before(rows, ahead, layers) if early else [] for rows in packed]
        out = true_forward(self, packed, layers)
        for rows, kept in zip(packed, before, strict=True):
            for layer, slots, (k, v) in kept:
                rows.kv[layer]._k._places[:, slots] = k
                rows.kv[layer]._v._places[:, slots] = v
            if early and len(rows.states):
                ahead[id(rows.kv)] = max(ahead.get(id(rows.kv), 0), rows.start + len(rows.states))
        return out

    def rewind(self: Any, length: int) -> None:
        true_rewind(self, length)
        ahead[id(self.layers)] = min(ahead.get(id(self.layers), 0), length)

    patch.setattr(ReferenceModel, "forward", forward)
    patch.setattr(ReferenceCache, "rewind", rewind)


def written_before(rows: Any, ahead: dict[int, int], layers: range) -> list[tuple[int, list[int], Any]]:
    """Copies of the K and V that early layers have already written at the positions of `rows`."""
    end = min(rows.start + len(rows.states), ahead.get(id(rows.kv), 0))
    slots = [rows.policy.slot(position) for position in range(rows.start, end)]
    return [(layer, slots, kv_copy(rows.kv[layer], slots)) for layer in layers]


def early_layers_one_short(patch: pytest.MonkeyPatch) -> None:
    """After drafting, verification does not run the early layers for the last draft."""
    true = ReferenceModel.run

    def run(self: Any, asks: Sequence[Ask]) -> Any:
        kept: list[tuple[Any, list[int], Any]] = []
        for ask in asks:
            step: Any = ask.round
            slots = [step._cache.policy.slot(step._start + len(ask.tokens) - 1)]
            early = step._cache.layers[: step._exit] if step._drafted else ()
            kept += [(layer, slots, kv_copy(layer, slots)) for layer in early]
        rows = true(self, asks)
        for layer, slots, (k, v) in kept:
            layer._k._places[:, slots], layer._v._places[:, slots] = k, v
        return rows

    patch.setattr(ReferenceModel, "run", run)


def stale_exit_state(patch: pytest.MonkeyPatch) -> None:
    """The states of drafted tokens are used even if other tokens are verified."""
    patch.setattr(reference_cache, "common_prefix", lambda drafted, tokens: min(len(drafted), len(tokens)))


def exit_states_shifted(patch: pytest.MonkeyPatch) -> None:
    true = ReferenceRound.draft

    def draft(self: Any, token: Any) -> Any:
        row = true(self, token)
        if len(self._states) > 1:
            self._states[-1] = self._states[-2]
        return row

    patch.setattr(ReferenceRound, "draft", draft)


def draft_positions_one_late(patch: pytest.MonkeyPatch) -> None:
    true = ReferenceModel.forward

    def forward(self: Any, packed: Any, layers: range) -> Any:
        drafts = layers.start == 0 and layers.stop == self.exit_layer
        late = [replace(rows, start=rows.start + int(drafts and len(rows.states) == 1)) for rows in packed]
        return true(self, late, layers)

    patch.setattr(ReferenceModel, "forward", forward)


def wrong_bonus_token(patch: pytest.MonkeyPatch) -> None:
    """At the first mismatch the loop emits the row after it."""
    true = Target.verify

    def verify(self: Any, rows: Sequence[Any], drafts: Sequence[int], context: Any, emitted: int) -> list[int]:
        tokens = true(self, rows, drafts, context, emitted)
        if len(tokens) < len(rows):
            tokens[-1] = context[-1] = rows[len(tokens)].argmax()
        return tokens

    patch.setattr(Target, "verify", verify)


def rejected_draft_emitted(patch: pytest.MonkeyPatch) -> None:
    true = Target.verify

    def verify(self: Any, rows: Sequence[Any], drafts: Sequence[int], context: Any, emitted: int) -> list[int]:
        tokens = true(self, rows, drafts, context, emitted)
        if len(tokens) <= len(drafts):
            tokens[-1] = context[-1] = drafts[len(tokens) - 1]
        return tokens

    patch.setattr(Target, "verify", verify)


def commit_before_the_stop_cut(patch: pytest.MonkeyPatch) -> None:
    """The round keeps every accepted row, also those after the stop token."""
    true_run, true_commit = ReferenceModel.run, ReferenceRound.commit

    def run(self: Any, asks: Sequence[Ask]) -> Any:
        found = true_run(self, asks)
        for ask, rows in zip(asks, found, strict=True):
            own = [row.argmax() for row in rows] if len(rows) == len(ask.tokens) else [*ask.tokens[1:], 0]
            pairs = enumerate(zip(own, ask.tokens[1:], strict=False))
            accepted: Any = ask.round
            accepted._accepted = next((at for at, (a, b) in pairs if a != b), len(own) - 1)
        return found

    patch.setattr(ReferenceModel, "run", run)
    patch.setattr(ReferenceRound, "commit", lambda self, n: true_commit(self, 1 + self._accepted))


def noise_by_time(patch: pytest.MonkeyPatch) -> None:
    """A stateful generator, as in most samplers: drafts shift the noise of later tokens."""
    random = np.random.default_rng(0)
    patch.setattr(sampler, "uniform", lambda seed, index, tokens: random.uniform(size=len(tokens)))


def noise_by_round(patch: pytest.MonkeyPatch) -> None:
    """The noise is keyed by the number of the pick, not by the index in the answer."""
    true, calls = noise.uniform, count()
    patch.setattr(sampler, "uniform", lambda seed, index, tokens: true(seed, next(calls), tokens))


def index_stands_still_in_a_round(patch: pytest.MonkeyPatch) -> None:
    true = Target.pick
    patch.setattr(Target, "pick", lambda self, row, context, emitted, ahead=0: true(self, row, context, emitted))


def penalty_forgets_the_round(patch: pytest.MonkeyPatch) -> None:
    """Tokens emitted in the current round are not penalized."""

    def pick(self: Any, row: Any, context: Any, emitted: int, ahead: int = 0) -> int:
        before: Any = context[: len(context) - ahead]
        return int(self.sampler.pick(row.numpy(), self.first_index + emitted + ahead, before))

    patch.setattr(Target, "pick", pick)


def reanchor_early(patch: pytest.MonkeyPatch) -> None:
    """Re-anchors when a whole round no longer fits, instead of exactly at the limit."""
    true = Decoder._begin_round

    def begin_round(self: Any, answer: Any, began: float, **how: Any) -> Any:
        if self._policy.limit - self.cache.length < 6 and self._controller.choose(5).depth:
            self._reanchor(answer)
            return self._begin_chunk(answer, began, None)
        return true(self, answer, began, **how)

    patch.setattr(Decoder, "_begin_round", begin_round)


def reanchor_drops_one_more(patch: pytest.MonkeyPatch) -> None:
    true = timeline.anchor

    def anchor(*arguments: Any) -> range:
        gap = true(*arguments)
        return range(gap.start, gap.stop + 1)

    patch.setattr(loop, "anchor", anchor)


def reuse_one_too_many(patch: pytest.MonkeyPatch) -> None:
    """A follow-up assumes that one token too many is in the cache."""
    patch.setattr(timeline, "common_prefix", lambda a, b: min(len(a), len(b), true_prefix(a, b) + 1))


def pending_token_believed_cached(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timeline.Timeline, "settle", lambda self, length: None)


def rows_of_another_ask(patch: pytest.MonkeyPatch) -> None:
    """The rows of a step are handed out in the wrong order."""
    true = ReferenceModel.run
    patch.setattr(ReferenceModel, "run", lambda self, asks: list(true(self, asks))[::-1])


def keys_of_a_neighbor(patch: pytest.MonkeyPatch) -> None:
    """All rows of a batch attend to the rings of the first conversation."""
    patch.setattr(reference_model, "_conversations", lambda queries: [(0, len(queries))])


def block_one_position_late(patch: pytest.MonkeyPatch) -> None:
    true = ReferenceCache.snapshot
    patch.setattr(
        ReferenceCache,
        "snapshot",
        lambda self, spans: true(self, [range(max(0, span.start - 1), span.stop - (span.start > 0)) for span in spans]),
    )


def taps_one_position_late(patch: pytest.MonkeyPatch) -> None:
    """Each row is fed with the taps of one position earlier."""
    true = TapLog.tapped
    patch.setattr(
        TapLog, "tapped", lambda self, start, stop: true(self, max(0, start - 1), max(0, start - 1) + stop - start)
    )


def true_states_not_fed(patch: pytest.MonkeyPatch) -> None:
    """Accepted drafts keep the keys that the draft layer computed from its own states."""
    true_saw = FeatureDrafts.saw

    def end(self: Any, n_kept: int) -> None:
        self._state = None
        if not n_kept:
            self._layer.rewind(min(self._layer.length, max(1, self._log.stop)))

    def saw(self: Any, tokens: Any, tapped: Any) -> None:
        true_saw(self, tokens, tapped)
        self._layer.rewind(min(self._layer.length, self._log.stop))

    patch.setattr(FeatureDrafts, "end", end)
    patch.setattr(FeatureDrafts, "saw", saw)


def draft_keys_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """After a rollback the draft's keys stay, and the next round continues after them."""

    def end(self: Any, n_kept: int) -> None:
        del n_kept
        self._state = None

    patch.setattr(FeatureDrafts, "end", end)


def keys_of_exit_drafts_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExitDrafts, "end", lambda self, n_kept: None)


def an_accepted_draft_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The last accepted draft is never fed to the draft layer."""
    true = ExitDrafts.end

    def end(self: Any, n_kept: int) -> None:
        true(self, n_kept)
        if n_kept > 1:
            self._layer.rewind(self._layer.length - 1)
            self._length -= 1

    patch.setattr(ExitDrafts, "end", end)


def plain_rounds_not_fed(patch: pytest.MonkeyPatch) -> None:
    """Tokens of rounds without drafts are never fed to the draft layer."""
    true = ExitDrafts.saw

    def saw(self: Any, tokens: Any, tapped: Any) -> None:
        true(self, tokens, tapped)
        self._length -= len(self._unfed)
        self._unfed = []

    patch.setattr(ExitDrafts, "saw", saw)


def ranked_ids_off_by_one(patch: pytest.MonkeyPatch) -> None:
    true = RankedRow.__init__

    def init(self: Any, logits: Any, ranked: Any, n_vocab: int) -> None:
        true(self, logits, np.roll(ranked, 1), n_vocab)

    patch.setattr(RankedRow, "__init__", init)


def keys_before_the_first_read(patch: pytest.MonkeyPatch) -> None:
    """A feature draft also sees position 0, which has no key."""
    from edgeinfer.backends.executorch.engine import TaughtRings

    true = TaughtRings.layer
    patch.setattr(TaughtRings, "layer", lambda self, inputs, start, first: true(self, inputs, start, 0 * first))


def states_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """The states that a round saw go to the exit draft in reverse."""
    true = ExitDrafts.saw
    patch.setattr(ExitDrafts, "saw", lambda self, tokens, tapped: true(self, tokens[::-1], tapped))


def draft_of_another_model_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DraftFile, "refusal", lambda self, model: "")


true_prefix = common_prefix


def kv_copy(layer: Any, slots: list[int]) -> tuple[Any, Any]:
    return layer._k._places[:, slots].copy(), layer._v._places[:, slots].copy()


def lossless(name: str, how: Sampling) -> Check:
    return partial(checks.check_lossless, name=name, how=how)


TAUGHT_MISTAKES = (
    ("taps one position late", taps_one_position_late, drafted.check_draft_rows),
    ("true states not fed after acceptance", true_states_not_fed, drafted.check_draft_rows),
    ("draft keys not rolled back", draft_keys_not_rolled_back, drafted.check_draft_rows),
    ("ranked ids off by one", ranked_ids_off_by_one, drafted.check_draft_rows),
    ("draft of another model taken", draft_of_another_model_taken, drafted.check_draft_of_another_model),
)
EXIT_MISTAKES = (
    ("keys of exit drafts not rolled back", keys_of_exit_drafts_not_rolled_back),
    ("an accepted exit draft forgotten", an_accepted_draft_forgotten),
    ("plain rounds not fed to the exit draft", plain_rounds_not_fed),
    ("ranked ids of the exit draft off by one", ranked_ids_off_by_one),
)
MLX_MISTAKES = (
    ("rows of another ask", mlx_mutants.rows_of_another_ask, together.check_together),
    ("positions of another ask", mlx_mutants.positions_of_another_ask, together.check_rows_in_step),
    ("keys of a neighbor", mlx_mutants.keys_of_a_neighbor, together.check_rows_in_step),
    ("eviction of a neighbor", mlx_mutants.eviction_of_a_neighbor, together.check_rows_in_step),
    ("rings reused with their length", mlx_mutants.rings_reused_with_their_length, together.check_closing_neighbor),
    ("states of another draft", mlx_mutants.states_of_another_draft, together.check_rows_in_step),
)
MLX_TAUGHT_MISTAKES = (
    ("ranked ids off by one", mlx_mutants.ranked_ids_off_by_one, drafted.check_draft_rows),
    ("taps of another layer", mlx_mutants.taps_of_another_layer, drafted.check_draft_rows),
    ("taps of a neighbor", mlx_mutants.taps_of_a_neighbor, drafted.check_draft_rows_together),
    ("keys before the first read", mlx_mutants.keys_before_the_first_read, drafted.check_draft_rows),
)
STREAMS_MISTAKES = (
    ("taps of a neighbor", gguf_mutants.taps_of_a_neighbor, drafted.check_draft_rows_together),
    (
        "draft of a neighbor rolled back",
        gguf_mutants.draft_of_a_neighbor_rolled_back,
        drafted.check_draft_rows_together,
    ),
    (
        "states of shared steps lost",
        gguf_mutants.states_of_shared_steps_lost,
        drafted.check_draft_rows_after_neighbors,
    ),
    ("exit states of a neighbor", gguf_mutants.exit_states_of_a_neighbor, together.check_together),
    ("early layers in another stream", gguf_mutants.early_layers_in_another_stream, together.check_together),
)
MUTANTS = (
    Mutant("window one longer", window_one_longer, checks.check_oracle),
    Mutant("window one shorter", window_one_shorter, checks.check_oracle),
    Mutant("ring one slot short", ring_one_slot_short, checks.check_oracle),
    Mutant("sink overwritten", sink_overwritten, checks.check_oracle),
    Mutant("batch across a block boundary", batch_across_a_block_boundary, checks.check_chunks),
    Mutant("rewind to evicted keys", rewind_to_evicted_keys, checks.check_rewind),
    Mutant("one rejected token kept", one_rejected_token_kept, lossless("forced", GREEDY)),
    Mutant("rejected rows all kept", rejected_rows_all_kept, checks.check_rounds),
    Mutant("rollback forgotten", rollback_forgotten, checks.check_rollback),
    Mutant("rollback keeps what was verified", rollback_keeps_what_was_verified, checks.check_rollback),
    Mutant("early layers not rolled back", early_layers_not_rolled_back, lossless("forced-early", GREEDY)),
    Mutant("early layers one short", early_layers_one_short, lossless("forced-early", GREEDY)),
    Mutant("stale exit state", stale_exit_state, checks.check_other_than_drafted),
    Mutant("exit states shifted", exit_states_shifted, checks.check_rounds),
    Mutant("draft positions one late", draft_positions_one_late, lossless("early-exit", GREEDY)),
    Mutant("wrong bonus token", wrong_bonus_token, lossless("early-exit", GREEDY)),
    Mutant("rejected draft emitted", rejected_draft_emitted, lossless("lookup", GREEDY)),
    Mutant("commit before the stop cut", commit_before_the_stop_cut, partial(checks.check_stop, how=GREEDY)),
    Mutant("noise by time", noise_by_time, lossless("early-exit", SAMPLED)),
    Mutant("noise by round", noise_by_round, lossless("early-exit", SAMPLED)),
    Mutant("index stands still in a round", index_stands_still_in_a_round, lossless("forced", SAMPLED)),
    Mutant("penalty forgets the round", penalty_forgets_the_round, lossless("forced", SAMPLED)),
    Mutant("re-anchor early", reanchor_early, lossless("forced", GREEDY)),
    Mutant("re-anchor drops one more", reanchor_drops_one_more, partial(checks.check_plain, how=GREEDY)),
    Mutant("reuse one too many", reuse_one_too_many, partial(checks.check_walk_away, how=GREEDY)),
    Mutant("pending token believed cached", pending_token_believed_cached, partial(checks.check_stop, how=GREEDY)),
    *(
        Mutant(f"{name}{where}", patch, check, subject)
        for where, subject in (
            ("", TAUGHT),
            (", llama.cpp", TAUGHT_GGUF),
            (", MLX", MLX_TAUGHT),
            (", ExecuTorch", EXECUTORCH_FEATURE),
        )
        for name, patch, check in TAUGHT_MISTAKES
        if (patch, subject) != (ranked_ids_off_by_one, MLX_TAUGHT)
    ),
    *(
        Mutant(f"{name}{where}", patch, drafted.check_draft_rows, subject)
        for where, subject in (
            ("", EXIT_DRAFT),
            (", llama.cpp", EXIT_DRAFT_GGUF),
            (", MLX", MLX_EXIT_DRAFT),
            (", ExecuTorch", EXECUTORCH_EXIT_DRAFT),
        )
        for name, patch in EXIT_MISTAKES
        if (patch, subject) != (ranked_ids_off_by_one, MLX_EXIT_DRAFT)
    ),
    Mutant(
        "keys before the first read, ExecuTorch",
        keys_before_the_first_read,
        drafted.check_draft_rows,
        EXECUTORCH_FEATURE,
    ),
    Mutant(
        "states of drafts in another order, ExecuTorch",
        states_in_another_order,
        drafted.check_draft_rows,
        EXECUTORCH_EXIT_DRAFT,
    ),
    Mutant("rows of another ask", rows_of_another_ask, together.check_together),
    Mutant("keys of a neighbor", keys_of_a_neighbor, together.check_together),
    Mutant("eviction of a neighbor", gguf_mutants.eviction_of_a_neighbor, together.check_rows_in_step, STREAMS),
    Mutant(
        "stream reused without clearing",
        gguf_mutants.stream_reused_without_clearing,
        together.check_closing_neighbor,
        STREAMS,
    ),
    Mutant("moved without its keys", gguf_mutants.moved_without_its_keys, together.check_neighbor_that_left, STREAMS),
    *(
        Mutant(f"{name}, llama.cpp", patch, check, EXIT_STREAMS if check is together.check_together else TAUGHT_STREAMS)
        for name, patch, check in STREAMS_MISTAKES
    ),
    *(Mutant(f"{name}, MLX", patch, check, MLX_PACKED) for name, patch, check in MLX_MISTAKES),
    *(Mutant(f"{name}, MLX", patch, check, MLX_TAUGHT) for name, patch, check in MLX_TAUGHT_MISTAKES),
    Mutant("block one position late", block_one_position_late, blocks.check_blocks),
    Mutant("values of another layer", gguf_mutants.values_of_another_layer, blocks.check_blocks, STREAMS),
)
