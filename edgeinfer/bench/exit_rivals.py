"""The ways to exit early on llama.cpp, behind one set of verbs, to be timed against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.exit.lanes import MAX_ROWS, ExitLanes
from edgeinfer.backends.gguf.exit.layout import find_layout
from edgeinfer.backends.gguf.llama import Batch, Context, ContextOptions
from edgeinfer.bench.exit_split import split_headless, split_shared
from edgeinfer.types import Tokens

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

N_BATCH: Final = 64  # prefill rows; a front that is stopped before its head still reserves a row of logits for each


class Way(Protocol):
    """One conversation. `plain`, `draft` and `verify` leave logits where the engine keeps them."""

    drafts: bool
    disk_bytes: int  # written besides the model

    def prefill(self, tokens: Tokens) -> None: ...
    def plain(self, token: int, position: int) -> None: ...
    def draft(self, token: int, position: int, row: int, *, head: bool) -> None: ...
    def verify(self, tokens: Tokens, position: int) -> None: ...
    def forget(self, position: int) -> None: ...
    def logits(self, row: int) -> Floats: ...
    def close(self) -> None: ...


class Whole:
    """Nothing but the model: what the other ways are measured against. It cannot draft; `verify` runs all layers."""

    drafts = False
    disk_bytes = 0

    def __init__(self, path: Path, options: ContextOptions, *, mmap: bool) -> None:
        self.model = llama.load(path, mmap=mmap)
        self.context = self._newest = Context(self.model, options)
        self._batch = Batch(options.n_batch)

    def prefill(self, tokens: Tokens) -> None:
        for at in range(0, len(tokens), N_BATCH):
            self._batch.fill(tokens[at : at + N_BATCH], at, n_wanted=0)
            self.context.decode(self._batch)

    def plain(self, token: int, position: int) -> None:
        self.verify([token], position)

    def draft(self, token: int, position: int, row: int, *, head: bool) -> None:
        del token, position, row, head

    def verify(self, tokens: Tokens, position: int) -> None:
        self._batch.fill(tokens, position, n_wanted=len(tokens))
        self.context.decode(self._batch)
        self._newest = self.context

    def forget(self, position: int) -> None:
        self.context.remove(position)

    def logits(self, row: int) -> Floats:
        return self._newest.logits(row)

    def close(self) -> None:
        self.context.close()
        self.model.close()


class InPlace:
    """Parts of the model's own graph. With `one_context` drafts and verifications take turns in one graph."""

    drafts = True
    disk_bytes = 0

    def __init__(
        self, path: Path, options: ContextOptions, *, mmap: bool, exit_layer: int, one_context: bool = False
    ) -> None:
        self._whole = whole = Whole(path, options, mmap=mmap)
        self._lanes = ExitLanes(whole.model, replace(options, kv_type="q4_0"), whole.context, exit_layer, find_layout())
        self._one_context = one_context
        if one_context:
            self._lanes._draft.close()
            self._lanes._draft = self._lanes._verify
        self._newest = whole.context

    def prefill(self, tokens: Tokens) -> None:
        self._whole.prefill(tokens)

    def plain(self, token: int, position: int) -> None:
        if self._one_context:
            self._newest = self._lanes.whole([token], position)
        else:
            self._whole.plain(token, position)
            self._newest = self._whole.context

    def draft(self, token: int, position: int, row: int, *, head: bool) -> None:
        if head:
            self._newest = self._lanes.draft(token, position, row)
        else:
            self._lanes.front([token], position, row)

    def verify(self, tokens: Tokens, position: int) -> None:
        self._newest = self._lanes.back(tokens, position)

    def forget(self, position: int) -> None:
        self._whole.forget(position)

    def logits(self, row: int) -> Floats:
        return self._newest.logits(row)

    def close(self) -> None:
        self._lanes.close()
        self._whole.close()


class Tap:
    """Copies a node's rows out of a graph, and stops the graph there when told to."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._index = -1  # of the node, counted in questions
        self._asked = 0
        self.out: Floats | None = None
        self.stop = False

    def on_node(self, address: int, ask: bool) -> bool:
        if not ask and self.out is not None:
            llama.read_tensor(address, self.out)
        if not ask:
            return not self.stop
        if self.out is None and not self.stop:
            return False
        self._asked += 1
        if self._index < 0 and llama.tensor_name(address) == self._name:
            self._index = self._asked
        return self._asked == self._index

    def aim(self, out: Floats | None, *, stop: bool) -> None:
        self.out, self.stop, self._asked = out, stop, 0


class Part:
    """Some layers as a model of their own, fed with tokens or, `by_state`, with hidden states."""

    def __init__(self, files: Sequence[Path], options: ContextOptions, *, mmap: bool, by_state: bool) -> None:
        self.model = llama.load(files if len(files) > 1 else files[0], mmap=mmap)
        self.tap = Tap(b"l_out-%d" % (self.model.n_layers - 1))
        self.context = Context(self.model, replace(options, n_outputs=options.n_batch, cb_eval=self.tap.on_node))
        self._batch = Batch(options.n_batch, hidden=self.model.hidden if by_state else 0)
        self._by_state = by_state

    def run(self, rows: Tokens | Floats, position: int, *, out: Floats | None, head: bool) -> None:
        """`out` takes the hidden states behind the last layer; without `head` the graph stops there."""
        n = len(rows)
        self.tap.aim(out, stop=not head)
        if self._by_state:
            self._batch.hidden[:n] = rows
        else:
            self._batch.tokens[:n] = rows
        self._batch.place(n, position, n_wanted=n)  # a row that is not wanted is dropped before the tap
        self.context.decode(self._batch)

    def close(self) -> None:
        self.context.close()
        self.model.close()


class SplitShared:
    """Two models, front and back, whose embedding and head are one part of a split file."""

    drafts = True

    def __init__(self, path: Path, options: ContextOptions, *, mmap: bool, exit_layer: int, folder: Path) -> None:
        parts = split_shared(path, exit_layer, folder)
        self.disk_bytes = parts.n_bytes
        options = replace(options, n_batch=N_BATCH)
        self._front = Part(parts.front, options, mmap=mmap, by_state=False)
        self._back = Part(parts.back, options, mmap=mmap, by_state=True)
        self._states: Floats = np.zeros((N_BATCH, self._back.model.hidden), np.float32)
        self._newest = self._back.context

    def prefill(self, tokens: Tokens) -> None:
        for at in range(0, len(tokens), N_BATCH):
            part = tokens[at : at + N_BATCH]
            self._front.run(part, at, out=self._states[: len(part)], head=False)
            self._back.run(self._states[: len(part)], at, out=None, head=True)

    def plain(self, token: int, position: int) -> None:
        self.draft(token, position, 0, head=False)
        self.verify([token], position)

    def draft(self, token: int, position: int, row: int, *, head: bool) -> None:
        self._front.run([token], position, out=self._states[row : row + 1], head=head)
        self._newest = self._front.context

    def verify(self, tokens: Tokens, position: int) -> None:
        self._back.run(self._states[: len(tokens)], position, out=None, head=True)
        self._newest = self._back.context

    def forget(self, position: int) -> None:
        for part in (self._front, self._back):
            part.context.remove(position)

    def logits(self, row: int) -> Floats:
        return self._newest.logits(row)

    def close(self) -> None:
        for part in (self._front, self._back):
            part.close()


class Headless:
    """Front and back without embedding and head, which are a third model. Token embeddings are looked up before."""

    drafts = True

    def __init__(
        self, path: Path, options: ContextOptions, *, mmap: bool, exit_layer: int, folder: Path, tokens: Tokens
    ) -> None:
        parts = split_headless(path, exit_layer, folder)
        self.disk_bytes = parts.n_bytes
        options = replace(options, n_batch=N_BATCH)
        self._front = Part(parts.front, options, mmap=mmap, by_state=True)
        self._back = Part(parts.back, options, mmap=mmap, by_state=True)
        head_options = ContextOptions(slots=64, n_batch=MAX_ROWS, n_threads=options.n_threads)
        self._head = Part(parts.head, head_options, mmap=mmap, by_state=True)
        self._embedding = _embedding(path, tokens)
        self._states: Floats = np.zeros((N_BATCH, self._back.model.hidden), np.float32)
        self._late: Floats = np.zeros_like(self._states)

    def prefill(self, tokens: Tokens) -> None:
        for at in range(0, len(tokens), N_BATCH):
            part = tokens[at : at + N_BATCH]
            self._front.run(self._looked_up(part), at, out=self._states[: len(part)], head=False)
            self._back.run(self._states[: len(part)], at, out=self._late[: len(part)], head=False)

    def plain(self, token: int, position: int) -> None:
        self.draft(token, position, 0, head=False)
        self.verify([token], position)

    def draft(self, token: int, position: int, row: int, *, head: bool) -> None:
        self._front.run(self._looked_up([token]), position, out=self._states[row : row + 1], head=False)
        if head:
            self._run_head(self._states[row : row + 1])

    def verify(self, tokens: Tokens, position: int) -> None:
        n = len(tokens)
        self._back.run(self._states[:n], position, out=self._late[:n], head=False)
        self._run_head(self._late[:n])

    def forget(self, position: int) -> None:
        for part in (self._front, self._back):
            part.context.remove(position)

    def logits(self, row: int) -> Floats:
        return self._head.context.logits(row)

    def close(self) -> None:
        for part in (self._front, self._back, self._head):
            part.close()

    def _run_head(self, states: Floats) -> None:
        self._head.context.remove(0)
        self._head.run(states, 0, out=None, head=True)

    def _looked_up(self, tokens: Tokens) -> Floats:
        return np.stack([self._embedding[token] for token in tokens])


def _embedding(path: Path, tokens: Tokens) -> dict[int, Floats]:
    import gguf

    table = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    return {token: gguf.dequantize(table.data[token : token + 1], table.tensor_type)[0] for token in set(tokens)}


def ways(
    path: Path, options: ContextOptions, *, mmap: bool, exit_layer: int, folder: Path, tokens: Sequence[int]
) -> dict[str, Callable[[], Way]]:
    """How to open each way, by name; "whole" is the first."""
    return {
        "whole": lambda: Whole(path, options, mmap=mmap),
        "lanes": lambda: InPlace(path, options, mmap=mmap, exit_layer=exit_layer),
        "one context": lambda: InPlace(path, options, mmap=mmap, exit_layer=exit_layer, one_context=True),
        "split": lambda: SplitShared(path, options, mmap=mmap, exit_layer=exit_layer, folder=folder),
        "headless": lambda: Headless(path, options, mmap=mmap, exit_layer=exit_layer, folder=folder, tokens=tokens),
    }
