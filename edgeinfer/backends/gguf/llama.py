"""llama.cpp by ctypes: models, contexts and their few calls, typed. No policy here.

Written against llama-cpp-python 0.3.36 (llama.h of its llama.cpp). Struct layouts come from that binding; the functions
on the hot path have prototypes of our own, so that an address comes back as an integer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import llama_cpp.llama_cpp as C
import numpy as np

from edgeinfer.backends.gguf.amx import would_crash
from edgeinfer.backends.gguf.logs import EngineLog
from edgeinfer.backends.gguf.state import StateLayout
from edgeinfer.errors import ArtifactError, EngineError
from edgeinfer.types import KvType, ValueType, of_k_and_v

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.types import Logits

    Floats: TypeAlias = npt.NDArray[np.float32]

__all__ = [
    "KV_TYPES",
    "LOG",
    "C",
    "Context",
    "ContextOptions",
    "LlamaModel",
    "NodeCallback",
    "base_function",
    "byref",
    "library_function",
    "load",
    "padded",
    "quick_function",
    "tensor_name",
]

LOG: Final = EngineLog()

NodeCallback: TypeAlias = Callable[[int, bool], bool]
"""`(tensor address, ask) -> bool`, ggml_backend_sched_eval_callback: with `ask`, whether this node is wanted; without,
the node has been computed and True continues the graph."""

KV_TYPES: Final[Mapping[ValueType, tuple[int, int, int]]] = {  # ggml type id, values a block, bytes a block
    "f32": (0, 1, 4),
    "f16": (1, 1, 2),
    "q8_0": (8, 32, 34),
    "q4_0": (2, 32, 18),
}
_CELL_PAD: Final = 256  # llama.cpp rounds n_ctx up to this many cells


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    LOG.write(level, text.decode("utf-8", "replace"))


C.llama_log_set(_on_log, ctypes.c_void_p(0))
C.llama_backend_init()


def _function(name: str, result: Any, *arguments: Any, library: Any = C._lib) -> Any:
    function = library[name]  # indexing makes a new function object, so the binding's own prototype does not change
    function.restype, function.argtypes = result, arguments
    return function


def _base_library() -> Any:
    folder = Path(C.__file__).parent / "lib"
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll", "libggml-base.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return C._lib


_BASE: Final = _base_library()
_QUICK: Final = ctypes.PyDLL(C._lib._name, handle=C._lib._handle)  # its calls keep Python's lock


def base_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's own library, with its prototype."""
    return _function(name, result, *arguments, library=_BASE)


_decode = _function("llama_decode", ctypes.c_int32, ctypes.c_void_p, C.llama_batch)
_synchronize = _function("llama_synchronize", None, ctypes.c_void_p)
_logits_ith = _function("llama_get_logits_ith", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, library=_QUICK)
_seq_cp = _function(
    "llama_memory_seq_cp", None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32
)
_state_size = _function("llama_state_seq_get_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32)
_get_state, _set_state = (
    _function(name, ctypes.c_size_t, ctypes.c_void_p, kind, ctypes.c_size_t, ctypes.c_int32)
    for name, kind in (("llama_state_seq_get_data", ctypes.c_void_p), ("llama_state_seq_set_data", ctypes.c_char_p))
)
_seq_rm = _function(
    "llama_memory_seq_rm", ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32
)
_get_name = _function("ggml_get_name", ctypes.c_char_p, ctypes.c_void_p, library=_BASE)


def library_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of llama.cpp's library, with its prototype. Raises AttributeError where this build has none."""
    return _function(name, result, *arguments)


def quick_function(name: str, result: Any, *arguments: Any) -> Any:
    """The same, for a call of about a microsecond. It keeps Python's lock, which a server's event loop would otherwise
    take, and hold for up to half a millisecond."""
    return _function(name, result, *arguments, library=_QUICK)


def tensor_name(address: int) -> bytes:
    name: bytes = _get_name(address)
    return name


def padded(cells: int) -> int:
    """K/V cells that llama.cpp allocates for this many."""
    return -(-cells // _CELL_PAD) * _CELL_PAD


class LlamaModel:
    """A llama_model and its vocabulary. `close` may be called twice."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.vocab = C.llama_model_get_vocab(handle)
        self.n_vocab: int = C.llama_vocab_n_tokens(self.vocab)
        self.n_layers: int = C.llama_model_n_layer(handle)
        self.hidden: int = C.llama_model_n_embd(handle)
        self.own_window: int = C.llama_model_n_swa(handle)  # of its sliding layers; 0: it has none

    @property
    def refusal(self) -> str:
        """Why this model cannot be decoded with rollback; "" if it can."""
        if C.llama_model_is_recurrent(self.handle) or C.llama_model_is_hybrid(self.handle):
            return "its recurrent state cannot be rolled back"
        if C.llama_model_is_diffusion(self.handle):
            return "it is a diffusion model"
        if C.llama_model_has_encoder(self.handle) or not C.llama_model_has_decoder(self.handle):
            return "it is not a decoder-only model"
        return ""

    def metadata(self, key: str) -> str | None:
        """A scalar of the file's metadata as text; None when it is missing or an array."""
        size = C.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        C.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        if self.handle is not None:
            C.llama_model_free(self.handle)
            self.handle = None


def load(paths: Path | Sequence[Path], *, mmap: bool = True, n_gpu_layers: int = 0) -> LlamaModel:
    """Load one GGUF, or the parts of a split one. Check the files first: llama.cpp does not check them enough.

    Raises ArtifactError with llama.cpp's own last lines.
    """
    options = C.llama_model_default_params()
    options.n_gpu_layers = n_gpu_layers
    # No other option of llama.cpp turns AMX off. This one also turns off repacking.
    options.use_extra_bufts = not would_crash()
    options.load_mode = C.LLAMA_LOAD_MODE_MMAP if mmap else C.LLAMA_LOAD_MODE_NONE
    parts = [paths] if isinstance(paths, Path) else list(paths)
    names = [os.fsencode(part) for part in parts]
    LOG.clear()
    if len(names) == 1:
        handle = C.llama_model_load_from_file(names[0], options)
    else:
        handle = C.llama_model_load_from_splits((ctypes.c_char_p * len(names))(*names), len(names), options)
    if not handle:
        raise ArtifactError(f"llama.cpp could not load {parts[0].name}: {LOG.tail() or 'no reason given'}")
    return LlamaModel(handle)


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """`slots` K/V positions (rounded up to 256 cells) in each of `n_streams`, in all of them together if they are
    `unified`; at most `n_batch` rows a decode, `n_outputs` with logits."""

    slots: int
    n_batch: int
    n_threads: int
    n_outputs: int = 0  # 0: every row. A reserved row of logits costs 4 bytes a vocabulary entry
    kv_type: KvType = "f16"
    flash_attention: bool = True
    n_gpu_layers: int = 0
    n_streams: int = 1
    unified: bool = False
    cb_eval: NodeCallback | None = None  # called for graph nodes; see NodeCallback


class Context:
    """A llama_context: the K/V of `n_streams` conversations and the buffers of its graph. `close` may be called twice.

    Streams of conversations are not unified in one set of cells: the order of a conversation's cells, and so the
    rounding of its rows, would then depend on its neighbors.
    """

    def __init__(self, model: LlamaModel, options: ContextOptions) -> None:
        self.handle: Any = None
        params = C.llama_context_default_params()
        unified = options.unified or options.n_streams == 1
        params.n_ctx = options.slots if unified else padded(options.slots) * options.n_streams
        params.n_batch = params.n_ubatch = options.n_batch
        params.n_seq_max = options.n_streams
        self.n_outputs = min(options.n_outputs or options.n_batch, options.n_batch)
        params.n_outputs_max = max(self.n_outputs, options.n_streams)  # llama.cpp asks for a row of each stream
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type = int(options.flash_attention)
        params.type_k, params.type_v = (KV_TYPES[kind][0] for kind in of_k_and_v(options.kv_type))
        params.offload_kqv = params.op_offload = options.n_gpu_layers != 0
        # A decode overwrites only keys that its own first row no longer sees, so rollback is safe without this. A
        # rewind is not; `oldest` shows it.
        params.swa_full = False
        params.no_perf = True
        if options.cb_eval is not None:
            params.cb_eval = self._callback = _node_callback(options.cb_eval)
        LOG.clear()
        self.handle = C.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise EngineError(f"llama.cpp could not open a context of {options.slots} positions: {LOG.tail()}")
        self.n_vocab = model.n_vocab
        self.own_window = model.own_window
        self.kv_format = _kv_format(model, options)
        self._memory: int = ctypes.cast(C.llama_get_memory(self.handle), ctypes.c_void_p).value or 0
        self.address = self.handle if isinstance(self.handle, int) else ctypes.cast(self.handle, ctypes.c_void_p).value
        self._on_gpu = options.n_gpu_layers != 0
        self._views: dict[int, Logits] = {}
        self.state_layout: StateLayout | None = None  # once a cache needed it

    def decode(self, batch: Batch) -> None:
        """Run the batch's rows. Raises EngineError; rows that were run before the failure stay in the memory."""
        self.be_open()
        if batch.n_wanted > self.n_outputs:  # llama.cpp would abort the process
            raise EngineError(f"at most {self.n_outputs} rows of a decode give logits; {batch.n_wanted} were asked for")
        code = _decode(self.address, batch.struct)
        if self._on_gpu:  # wait here, where Python's other threads run
            _synchronize(self.address)
        if code != 0:
            reason = {1: "no free K/V cell", 2: "aborted", -1: "invalid batch"}.get(code, f"code {code}")
            raise EngineError(f"llama.cpp stopped decoding: {reason}" + (f" ({LOG.tail()})" if LOG.tail() else ""))

    def logits(self, row: int) -> Logits:
        """[V] float32 of batch row `row`: a view of llama.cpp's buffer, overwritten by the next decode.

        A negative `row` counts from the last wanted row.
        """
        self.be_open()
        address = _logits_ith(self.address, row)
        if not address:
            raise EngineError(f"llama.cpp has no logits for row {row}: {LOG.tail()}")
        view = self._views.get(address)
        if view is None:
            if len(self._views) > 64:  # the buffer has moved, so its old addresses are invalid
                self._views.clear()
            view = np.ctypeslib.as_array((ctypes.c_float * self.n_vocab).from_address(address))
            self._views[address] = view
        return view

    def remove(self, start: int, stop: int = -1, *, stream: int = 0) -> None:
        """Forget positions [start, stop) of a stream, -1: to the end. Raises EngineError when this memory cannot."""
        self.be_open()
        if not _seq_rm(self._memory, stream, start, stop):
            raise EngineError(f"llama.cpp cannot forget positions {start} to {stop} of this model")

    def move(self, source: int, target: int) -> None:
        """Move a conversation to another stream, in the cells of the same numbers. Call it right before a decode.

        llama.cpp copies K and V when the next decode begins. Until then `state` would read the old ones.
        """
        self.remove(0, stream=target)  # the search for a free cell then starts at the first one
        _seq_cp(self._memory, source, target, -1, -1)
        self.remove(0, stream=source)

    def oldest(self, *, stream: int = 0) -> int:
        """The first position of a stream that every layer still holds, sinks aside; -1 when it is empty."""
        self.be_open()
        return int(C.llama_memory_seq_pos_min(self._memory, stream))

    def state(self, stream: int) -> npt.NDArray[np.uint8]:
        """K and V of a stream, as llama.cpp writes them: see state.py."""
        self.be_open()
        buffer = np.empty(_state_size(self.address, stream), np.uint8)
        n: int = _get_state(self.address, buffer.ctypes.data, len(buffer), stream)
        if not n:
            raise EngineError(f"llama.cpp could not copy out a conversation: {LOG.tail()}")
        return buffer[:n]

    def load_state(self, state: bytes, stream: int) -> None:
        """Replace a stream by what `state` gave for one. llama.cpp checks its lengths, not its bytes."""
        self.be_open()
        if _set_state(self.address, state, len(state), stream) != len(state):
            raise EngineError(f"llama.cpp could not take a conversation back: {LOG.tail()}")

    def be_open(self) -> None:
        """Raises EngineError where llama.cpp would read freed memory."""
        if self.handle is None:
            raise EngineError("the context is closed")

    def set_threads(self, n_threads: int) -> None:
        C.llama_set_n_threads(self.handle, n_threads, n_threads)

    def close(self) -> None:
        if self.handle is not None:
            self._views.clear()
            C.llama_free(self.handle)
            self.handle = None


def _kv_format(model: LlamaModel, options: ContextOptions) -> str:
    """What K and V depend on in addition to weights, build and tokens; "" if they cannot be cut into blocks."""
    if model.own_window or not options.flash_attention:  # masked positions are left out; V is transposed
        return ""
    architecture = model.metadata("general.architecture")
    short_limit = int(model.metadata(f"{architecture}.rope.scaling.original_context_length") or 0)
    rope = "long" if short_limit and padded(options.slots) > short_limit else "short"  # long RoPE factors, as Phi has
    return f"K/V {options.kv_type}, {model.n_layers} layers, {options.n_gpu_layers} on a GPU, {rope} RoPE"


def _node_callback(on_node: NodeCallback) -> Any:
    def call(address: int, ask: bool, _user_data: object) -> bool:
        return on_node(address, ask)

    return C.ggml_backend_sched_eval_callback(call)
