"""Runs a part of llama.cpp's graph: nodes are switched off, inputs and outputs are redirected. See README.md."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.exit.layout import TensorLayout, read_pointer, write_pointer
from edgeinfer.backends.gguf.llama import C, Context, base_function, tensor_name
from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeinfer.backends.gguf.llama import Floats

_OUTPUT: Final = b"result_output"  # the node that llama.cpp's graphs end with
_CELL_INDEX: Final = b"k_idxs"  # ends the name of the input [T] int64 that says which K/V cell each row goes to
_GET_SCHED: Final = "_ZNK13llama_context9get_schedEv"  # llama_context::get_sched() const


class Stage(Enum):
    """Which groups of nodes run: (early layers, late layers, norm and head)."""

    WHOLE = (True, True, True)
    DRAFT = (True, False, True)
    EARLY = (True, False, False)
    LATE = (False, True, True)
    NONE = (False, False, False)


class ExitStates:
    """What drafting leaves for verification: the hidden state at the exit and the K/V cell of each row of a round.

    `hidden`: [R, D] float32. `cells`: [R] int64.
    """

    def __init__(self, n_rows: int, hidden: int) -> None:
        self.hidden: Floats = np.zeros((n_rows, hidden), np.float32)
        self.cells: npt.NDArray[np.int64] = np.zeros(n_rows, np.int64)


@dataclass(frozen=True, slots=True)
class GraphMap:
    """Addresses in a graph: tensors, the flags of each group of nodes, and the head's sources."""

    first: int
    tap: int  # the residual stream at the exit
    last: int  # the residual stream after the last layer
    names: tuple[bytes, bytes]  # of tap and last
    cell_index: int
    groups: tuple[tuple[ctypes.c_int32, ...], ...]  # in the order of Stage
    links: tuple[int, ...]  # where the head names `last` as its source

    def is_at(self, first: int) -> bool:
        return first == self.first and (tensor_name(self.tap), tensor_name(self.last)) == self.names


def map_graph(nodes: Sequence[int], layout: TensorLayout, exit_layer: int, n_layers: int) -> GraphMap:
    """Map `nodes`, given in the order of computation. Raises EngineError when a part cannot run without the others."""
    names = [tensor_name(node) for node in nodes]
    wanted = (b"l_out-%d" % (exit_layer - 1), b"l_out-%d" % (n_layers - 1))
    try:
        tap, last = (names.index(name) for name in wanted)
    except ValueError:
        raise EngineError(f"the graph has no node {wanted[0].decode()} or {wanted[1].decode()}") from None
    place = {node: index for index, node in enumerate(nodes)}

    def sources(index: int) -> list[int]:
        slots = range(nodes[index] + layout.sources, nodes[index] + layout.sources + 8 * layout.n_sources, 8)
        return [source for slot in slots if (source := read_pointer(slot))]

    if any(tap < place.get(source, -1) < last for index in range(last + 1, len(nodes)) for source in sources(index)):
        raise EngineError("the head reads more than the last layer's output")
    shared: set[int] = set()  # nodes before the exit that late layers read too: they run in every stage
    pending = [place[source] for index in range(tap + 1, len(nodes)) for source in sources(index) if source in place]
    while pending:
        index = pending.pop()
        if index < tap and index not in shared:
            shared.add(index)
            pending += [place[source] for source in sources(index) if source in place]
    inputs = {source for index in range(len(nodes)) for source in sources(index)}
    cells = [source for source in inputs if tensor_name(source).endswith(_CELL_INDEX)]
    if len(cells) != 1:
        raise EngineError(f"the graph has {len(cells)} K/V memories; early exit supports one")

    def flags(start: int, stop: int) -> tuple[ctypes.c_int32, ...]:
        found = [ctypes.c_int32.from_address(nodes[i] + layout.flags) for i in range(start, stop) if i not in shared]
        return tuple(flag for flag in found if flag.value & layout.compute)

    return GraphMap(
        first=nodes[0],
        tap=nodes[tap],
        last=nodes[last],
        names=wanted,
        cell_index=cells[0],
        groups=(flags(0, tap + 1), flags(tap + 1, last + 1), flags(last + 1, len(nodes))),
        links=tuple(
            slot
            for node in nodes[last + 1 :]
            for slot in range(node + layout.sources, node + layout.sources + 8 * layout.n_sources, 8)
            if read_pointer(slot) == nodes[last]
        ),
    )


class ExitGraph:
    """The graph of one context. llama.cpp keeps it while the number of rows stays the same, else builds a new one.

    A kept graph is patched before the decode. A new graph is patched when the scheduler first asks about a node, which
    it does before it computes any.
    """

    def __init__(self, layout: TensorLayout, exit_layer: int, n_layers: int, states: ExitStates) -> None:
        self._layout = layout
        self._layers = (exit_layer, n_layers)
        self._states = states
        self._found: npt.NDArray[np.int64] = np.zeros_like(states.cells)
        self._map: GraphMap | None = None
        self._asked: list[int] = []
        self._is_patched = True
        self._failure: BaseException | None = None
        self._stage = self._applied = Stage.WHOLE
        self._row = self._n_rows = 0
        self._allocated = (0, 0)  # data pointers of tap and cell_index, as llama.cpp allocated them
        self._written = (0, 0)  # the same pointers, as this class last wrote them
        self._mute_callback: Callable[[], None] = lambda: None

    def attach(self, context: Context) -> None:
        """Find the scheduler, to mute the callback. Builds that do not export it ask about each node of each decode."""
        try:
            get_sched = C._lib[_GET_SCHED]
        except AttributeError:
            return
        get_sched.restype, get_sched.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        scheduler = get_sched(ctypes.cast(context.handle, ctypes.c_void_p))
        set_callback = base_function(
            "ggml_backend_sched_set_eval_callback", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
        )
        # A Python callback costs 0.1 us for each node. Once a graph is patched, replace it by a C function until
        # llama.cpp builds the next graph, which restores ours. `ggml_is_empty` has a compatible signature and
        # returns false ("not wanted") for every real tensor.
        never = ctypes.cast(base_function("ggml_is_empty", ctypes.c_bool, ctypes.c_void_p), ctypes.c_void_p)
        self._mute_callback = lambda: set_callback(scheduler, never, None)

    def run(self, context: Context, batch: Batch, stage: Stage, *, row: int, n_rows: int) -> bool:
        """Decode `batch`, whose rows are `row`, `row` + 1, ... of the round.

        False: in stage LATE, llama.cpp gave the rows other K/V cells than the early layers had; discard the result.
        """
        context.be_open()
        self._stage, self._row, self._n_rows = stage, row, n_rows
        self._asked, self._is_patched = [], False
        if self._map is not None:
            self._apply(self._map)
        try:
            context.decode(batch)
        finally:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return stage is not Stage.LATE or np.array_equal(self._found[:n_rows], self._states.cells[row : row + n_rows])

    def on_node(self, address: int, ask: bool) -> bool:
        """See NodeCallback. Wants no node: the question is the signal that a new graph exists."""
        if self._is_patched or not ask:
            return not ask
        try:
            self._is_patched = self._on_graph_node(address)
        except BaseException as failure:  # an exception cannot pass through C; `run` raises it
            self._failure, self._is_patched = failure, True
        if self._is_patched:
            self._mute_callback()
        return False

    def _on_graph_node(self, address: int) -> bool:
        if not self._asked and self._map is not None and self._map.is_at(address):
            self._apply(self._map)
            return True
        self._asked.append(address)
        if tensor_name(address) != _OUTPUT:
            return False
        self._map = map_graph(self._asked, self._layout, *self._layers)
        self._written = (0, 0)
        self._apply(self._map)
        return True

    def _apply(self, at: GraphMap) -> None:
        """Patch the graph at `at` so that it computes the stage, unless it does already."""
        slots = (at.tap + self._layout.data, at.cell_index + self._layout.data)
        data = (read_pointer(slots[0]), read_pointer(slots[1]))
        is_new = data != self._written
        if is_new:
            self._allocated, self._applied = data, Stage.WHOLE
        stage, states = self._stage, self._states
        if stage is Stage.WHOLE:
            self._written = self._allocated
        else:
            cells = self._found.ctypes.data if stage is Stage.LATE else states.cells[self._row :].ctypes.data
            self._written = (states.hidden[self._row :].ctypes.data, cells)
            if is_new:  # llama.cpp has filled the inputs of a new graph already
                ctypes.memmove(cells, data[1], 8 * self._n_rows)
        for slot, value in zip(slots, self._written, strict=True):
            write_pointer(slot, value)
        if stage is self._applied:
            return
        for flags, runs, ran in zip(at.groups, stage.value, self._applied.value, strict=True):
            if runs != ran:
                for flag in flags:
                    flag.value ^= self._layout.compute
        for link in at.links:
            write_pointer(link, at.tap if stage is Stage.DRAFT else at.last)
        self._applied = stage
