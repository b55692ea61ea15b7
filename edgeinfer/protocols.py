"""What a backend, a model, a cache, a round and a drafter are. Only token ids and float32 rows cross this seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgeinfer.plan.facts import Probe
from edgeinfer.plan.types import Plan
from edgeinfer.types import DraftsWith, Tokens
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.types import Logits

__all__ = [
    "Ask",
    "Backend",
    "BlockCache",
    "Cache",
    "Drafter",
    "Model",
    "Round",
    "Row",
    "TokenLike",
    "Tokenizer",
    "as_id",
]


class Row(Protocol):
    """One row of logits, [V] float32. It may still be on a GPU: `argmax` brings one id to the host, `numpy` all of it.

    Valid until the next `run` of its model, or draft of its cache; copy what must outlive that.
    """

    def argmax(self) -> int: ...
    def numpy(self) -> Logits: ...


TokenLike: TypeAlias = int | Row
"""A token id, or a row that stands for its own argmax, so that a chain of drafts need not visit the host."""


def as_id(token: TokenLike) -> int:
    return token if isinstance(token, int) else token.argmax()


class Tokenizer(Protocol):
    @property
    def n_vocab(self) -> int: ...
    @property
    def stop_tokens(self) -> frozenset[int]:
        """Every id that ends a turn or the text."""
        ...

    @property
    def chat_template(self) -> str | None:
        """Jinja source from the file: data from a stranger."""
        ...

    @property
    def bos_text(self) -> str:
        """Text of the BOS token, "" where the model takes none."""
        ...

    @property
    def eos_text(self) -> str: ...
    @property
    def control_texts(self) -> frozenset[str]:
        """What `encode` turns into control tokens with `special`, and into plain text without."""
        ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`; with `special`, control tokens in the text are parsed. Adds no BOS."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of one token; a token may hold part of a character. Control tokens give b""."""
        ...


class Round(Protocol):
    """One step on a cache. Before `commit` nothing is remembered; `commit` and `rollback` end the round."""

    def draft(self, token: TokenLike) -> Row:
        """The row after `token` at the next position, by the model's own drafter (`Model.drafts_with`)."""
        ...

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        """`Model.run` of this round alone: the last `n_rows` rows of `tokens`, all of them with None."""
        ...

    def commit(self, n: int) -> None:
        """Keep the first `n` of the tokens that were run, in every layer."""
        ...

    def rollback(self) -> None:
        """Keep none. Does nothing on a round that has ended, so it can stand in `finally`."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One conversation's part of a step: a verify, or a chunk of a prompt."""

    round: Round
    tokens: Sequence[TokenLike]  # [T], at the cache's length and after
    n_rows: int  # how many of the last tokens' rows are wanted: T for a verify, 1 or 0 for a chunk of a prompt


class Cache(Protocol):
    """One conversation on one model. `length` moves only in commit and rewind."""

    policy: WindowPolicy
    chunk_rows: int  # tokens of a prompt in one ask: chunks end at multiples of this position

    @property
    def length(self) -> int: ...
    @property
    def n_bytes(self) -> int:
        """Bytes of K and V; equals the plan's `kv_bytes`."""
        ...

    def begin(self, max_rows: int) -> Round:
        """Open a round of at most `max_rows` rows (<= policy.room(length)). One round at a time."""
        ...

    def rewind(self, length: int) -> None:
        """Forget positions >= `length`. Raises RewindError when keys that it needs are evicted."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BlockCache(Cache, Protocol):
    """A cache whose K and V can be copied out in blocks of positions, and into another cache of the same model."""

    @property
    def block_format(self) -> str:
        """What the bytes of a block depend on in addition to the weights and the tokens: engine, build, shape, types.
        "" where this model's K and V cannot be taken apart."""
        ...

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        """K and V of each span of positions; None where the cache does not hold all of it. Not in a round."""
        ...

    def restore(self, blocks: Sequence[bytes]) -> None:
        """Fill the empty cache from position 0 with what `snapshot` gave for spans that follow each other.

        A query then sees what it would see if the tokens had been run. Raises EngineError; the cache is empty then.
        """
        ...


class Model(Protocol):
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def drafts_with(self) -> DraftsWith:
        """What `Round.draft` runs: the early layers, or a taught draft. "": this model does not draft by itself."""
        ...

    @property
    def exact_rows(self) -> int | None:
        """Most rows of one verify that equal plain rows bit for bit. None: they equal within a tolerance only."""
        ...

    @property
    def n_threads(self) -> int:
        """Threads of the processor, as the engine was opened. 0: the engine chooses."""
        ...

    @property
    def note(self) -> str:
        """A sentence for the user about what the plan asked for and this model does not do; "" if it does all of it."""
        ...

    @property
    def n_caches(self) -> int:
        """Conversations under the planned policy that have memory from the start."""
        ...

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        """All layers for the tokens of each ask, in as few forwards as the engine can; the rows that each wants.

        The asks belong to different caches of this model. The rows of an ask are those that it would get alone. The
        early layers are not run again for tokens that the round drafted.

        Raises UsageError for a token outside the vocabulary: no ask has begun then, and the others can still be run.
        Raises EngineError; roll back every asked round then.
        """
        ...

    def rest(self) -> None:
        """End the threads that the engine keeps for the calling thread alone; its next ask starts them again.

        Whoever has run asks calls it when no other follows at once: two threads of a program that both keep some have
        more of them than the processor has cores.
        """
        ...

    def new_cache(self, policy: WindowPolicy) -> Cache:
        """Raises EngineError when the engine has no memory for it."""
        ...

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        ...


class Backend(Protocol):
    name: str

    def probe(self) -> Probe:
        """What is installed here. Never raises; `unavailable` says why the backend cannot run."""
        ...

    def report(self) -> Mapping[str, str]:
        """What `doctor` prints about an available engine. It may be imported for this."""
        ...

    def forget(self, path: Path) -> None:
        """Delete records about the model file at `path`, which is about to be removed."""
        ...

    def before_load(self, plan: Plan, path: Path) -> str:
        """What a first load makes here, and how long that takes, for a user who waits; "" for nothing. Raises as `load`
        does."""
        ...

    def load(self, plan: Plan, path: Path) -> Model:
        """Load the plan's artifact from `path` (a file or a folder). Raises ArtifactError or EngineError."""
        ...


class Drafter(Protocol):
    """Guesses the next tokens of one conversation. It copies what it keeps from the sequences that it receives."""

    name: str

    def reset(self, context: Tokens) -> None:
        """An answer begins: `context` [n] is the whole conversation, with the first token of the answer."""
        ...

    def extend(self, tokens: Tokens) -> None:
        """The round emitted `tokens` (one or more), whoever drafted for it. The last one is not yet in the cache."""
        ...

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        """At most `limit` guesses for what follows."""
        ...
