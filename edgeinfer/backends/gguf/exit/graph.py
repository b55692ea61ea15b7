"""Computing a part of llama.cpp's graph: nodes are switched off, the others read and write where we say."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.backends.gguf.exit.layout import TensorLayout, set_word, word
from edgeinfer.backends.gguf.llama import Batch, C, Context, base_function, tensor_name
from edgeinfer.errors import EngineFailed

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeinfer.backends.gguf.llama import Floats

_OUTPUT: Final = b"result_output"  # the node that llama.cpp's graphs end with
_CELL_INDEX: Final = b"k_idxs"  # ends the name of the input [T] int64 that says which K/V cell each row goes to
_GET_SCHED: Final = "_ZNK13llama_context9get_schedEv"  # llama_context::get_sched() const


class Stage(Enum):
    """Which groups of nodes run: (layers before the exit, layers behind it, norm and head)."""

    WHOLE = (True, True, True)
    DRAFT = (True, False, True)
    FRONT = (True, False, False)
    BACK = (False, True, True)
    NONE = (False, False, False)


class Carried:
    """What drafting leaves for verification: of each row of a round, the state at the exit and the K/V cell."""

    def __init__(self, n_rows: int, hidden: int) -> None:
        self.hidden: Floats = np.zeros((n_rows, hidden), np.float32)
        self.cells: npt.NDArray[np.int64] = np.zeros(n_rows, np.int64)


@dataclass(frozen=True, slots=True)
class GraphMap:
    """Addresses in a graph: of tensors, of the flags of each group of nodes, of the head's sources."""

    first: int
    tap: int  # the residual stream at the exit
    last: int  # the residual stream behind the last layer
    names: tuple[bytes, bytes]  # of tap and last
    cell_index: int
    groups: tuple[tuple[ctypes.c_int32, ...], ...]  # in the order of Stage
    links: tuple[int, ...]  # where the head names `last` as its source

    def is_at(self, first: int) -> bool:
        return first == self.first and (tensor_name(self.tap), tensor_name(self.last)) == self.names


def map_graph(nodes: Sequence[int], layout: TensorLayout, exit_layer: int, n_layers: int) -> GraphMap:
    """Of `nodes` in the order of computation. Raises EngineFailed when a part cannot be run without the others."""
    names = [tensor_name(node) for node in nodes]
    wanted = (b"l_out-%d" % (exit_layer - 1), b"l_out-%d" % (n_layers - 1))
    try:
        tap, last = (names.index(name) for name in wanted)
    except ValueError:
        raise EngineFailed(f"the graph has no node {wanted[0].decode()} or {wanted[1].decode()}") from None
    place = {node: index for index, node in enumerate(nodes)}

    def sources(index: int) -> list[int]:
        slots = range(nodes[index] + layout.sources, nodes[index] + layout.sources + 8 * layout.n_sources, 8)
        return [source for slot in slots if (source := word(slot))]

    if any(tap < place.get(source, -1) < last for index in range(last + 1, len(nodes)) for source in sources(index)):
        raise EngineFailed("the head reads more than the last layer's output")
    shared: set[int] = set()  # nodes before the exit that later layers read besides the residual stream
    pending = [place[source] for index in range(tap + 1, len(nodes)) for source in sources(index) if source in place]
    while pending:
        index = pending.pop()
        if index < tap and index not in shared:
            shared.add(index)
            pending += [place[source] for source in sources(index) if source in place]
    inputs = {source for index in range(len(nodes)) for source in sources(index)}
    cells = [source for source in inputs if tensor_name(source).endswith(_CELL_INDEX)]
    if len(cells) != 1:
        raise EngineFailed(f"the graph has {len(cells)} kinds of K/V memory; early exit knows one")

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
            if word(slot) == nodes[last]
        ),
    )


class ExitGraph:
    """The graph of one context. llama.cpp keeps it between decodes of as many rows and builds a new one for others.

    A kept graph is patched before the decode; a new one at the first question of the scheduler, which comes before
    any node is computed. `exit_layer` and `n_layers` count layers; the context must not be changed once it has decoded.
    """

    def __init__(self, layout: TensorLayout, exit_layer: int, n_layers: int, carried: Carried) -> None:
        self._layout = layout
        self._layers = (exit_layer, n_layers)
        self._carried = carried
        self._found: npt.NDArray[np.int64] = np.zeros_like(carried.cells)
        self._map: GraphMap | None = None
        self._asked: list[int] = []
        self._settled = True
        self._failure: BaseException | None = None
        self._stage = self._applied = Stage.WHOLE
        self._row = self._n_rows = 0
        self._own = (0, 0)  # data of tap and cell_index as llama.cpp allocated them
        self._set = (0, 0)  # and as they were left
        self._hush: Callable[[], None] = lambda: None

    def attach(self, context: Context) -> None:
        """Without the scheduler's address (not every build exports it) each node of each decode is asked about."""
        try:
            get_sched = C._lib[_GET_SCHED]
        except AttributeError:
            return
        get_sched.restype, get_sched.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        scheduler = get_sched(ctypes.cast(context.handle, ctypes.c_void_p))
        listen = base_function(
            "ggml_backend_sched_set_eval_callback", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
        )
        # A new graph asks Python again. Until then any C function of (tensor, ...) that says no will do; this one says
        # yes to a tensor without elements, which is as well.
        nobody = ctypes.cast(base_function("ggml_is_empty", ctypes.c_bool, ctypes.c_void_p), ctypes.c_void_p)
        self._hush = lambda: listen(scheduler, nobody, None)

    def run(self, context: Context, batch: Batch, stage: Stage, *, row: int, n_rows: int) -> bool:
        """Decode `batch`, whose rows are `row`, `row` + 1, ... of the round.

        False: BACK found that its rows went to other K/V cells than the early layers'; what it computed is void.
        """
        context.be_open()
        self._stage, self._row, self._n_rows = stage, row, n_rows
        self._asked, self._settled = [], False
        if self._map is not None:
            self._apply(self._map)
        try:
            context.decode(batch)
        finally:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return stage is not Stage.BACK or np.array_equal(self._found[:n_rows], self._carried.cells[row : row + n_rows])

    def on_node(self, address: int, ask: bool) -> bool:
        """See NodeCallback. Wants no node: being asked is enough."""
        if self._settled or not ask:
            return not ask
        try:
            self._settled = self._meet(address)
        except BaseException as failure:  # an exception cannot cross llama.cpp; `run` raises it
            self._failure, self._settled = failure, True
        if self._settled:
            self._hush()
        return False

    def _meet(self, address: int) -> bool:
        if not self._asked and self._map is not None and self._map.is_at(address):
            self._apply(self._map)
            return True
        self._asked.append(address)
        if tensor_name(address) != _OUTPUT:
            return False
        self._map = map_graph(self._asked, self._layout, *self._layers)
        self._set = (0, 0)
        self._apply(self._map)
        return True

    def _apply(self, at: GraphMap) -> None:
        """Make the graph at `at` compute the stage. Does nothing to one that does already."""
        slots = (at.tap + self._layout.data, at.cell_index + self._layout.data)
        data = (word(slots[0]), word(slots[1]))
        is_new = data != self._set
        if is_new:
            self._own, self._applied = data, Stage.WHOLE
        stage, carried = self._stage, self._carried
        if stage is Stage.WHOLE:
            self._set = self._own
        else:
            cells = self._found.ctypes.data if stage is Stage.BACK else carried.cells[self._row :].ctypes.data
            self._set = (carried.hidden[self._row :].ctypes.data, cells)
            if is_new:  # llama.cpp has filled its inputs already
                ctypes.memmove(cells, data[1], 8 * self._n_rows)
        for slot, value in zip(slots, self._set, strict=True):
            set_word(slot, value)
        if stage is self._applied:
            return
        for flags, runs, ran in zip(at.groups, stage.value, self._applied.value, strict=True):
            if runs != ran:
                for flag in flags:
                    flag.value ^= self._layout.compute
        for link in at.links:
            set_word(link, at.tap if stage is Stage.DRAFT else at.last)
        self._applied = stage
