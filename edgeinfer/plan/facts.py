"""What the rest of the program may know of a backend. `backends/<name>/facts.py` states it as values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final, Protocol

from edgeinfer.catalog.entry import Artifact, ModelEntry, TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.shape import ModelShape
from edgeinfer.types import KvType, ValueType, of_k_and_v
from edgeinfer.window import WindowPolicy

__all__ = [
    "GRAMMAR_BYTES_PER_ENTRY",
    "NOT_ON_PHONES",
    "ON_PHONES_HINT",
    "TAPPED_ROWS",
    "TOKENIZER_BYTES_PER_ENTRY",
    "BackendFacts",
    "Capabilities",
    "Exporting",
    "Probe",
    "Scaling",
    "forward_bytes",
    "installed_version",
    "kv_row_bytes",
    "round_up",
    "tapped_bytes",
]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do on a device, named or present, when its engine is installed."""

    tiers: frozenset[str]
    kv_types: tuple[KvType, ...]
    early_exit: bool
    interpreter_bytes: int = 0  # of Python, where `workspace_bytes` leaves it out because phones run without it
    unavailable: str = ""  # why the device cannot run it; "" when it can
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is installed on this machine. It can remove abilities of a backend, and add none."""

    versions: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""  # why the engine cannot be used; "" when it can
    hint: str = ""  # what installs it
    no_early_exit: str = ""  # why drafting with early layers is switched off; "" when it is not


class Exporting(Protocol):
    """What `edgeinfer export` makes for a backend that does not run the files of models as they are."""

    def exports(self, device: DeviceProfile, model: ModelEntry) -> tuple[Artifact, ...]:
        """What can be made of the files of `model` for this device."""
        ...

    def cannot_export(self, shape: ModelShape) -> str:
        """Why a model of this shape cannot be exported; "" when it can."""
        ...

    def packed_bytes(self, artifact: Artifact) -> int:
        """The copy of the weights that the backend keeps in a file and maps.

        Mapped weights are clean pages: the system drops them when memory is short, and reads them again.
        """
        ...


class BackendFacts(Protocol):
    """Pure values and functions: reading a fact imports no engine and probes no machine."""

    @property
    def name(self) -> str:
        """The name as users and catalogs write it."""
        ...

    @property
    def package(self) -> str:
        """The Python package whose `BACKEND` is the protocols.Backend."""
        ...

    @property
    def on_request_only(self) -> bool:
        """Whether it is chosen only by name."""
        ...

    @property
    def takes_threads(self) -> bool:
        """Whether a plan can say how many threads it runs on."""
        ...

    @property
    def rows_cheap_to_read(self) -> bool:
        """Whether reading a drafted row is cheap. False where it stalls a GPU."""
        ...

    @property
    def prefill_rows(self) -> int:
        """Rows of one forward, at most."""
        ...

    @property
    def max_rows(self) -> int:
        """Rows with logits of one forward, at most."""
        ...

    @property
    def exporting(self) -> Exporting | None:
        """None where the files of models run as they are."""
        ...

    def capabilities(self, device: DeviceProfile) -> Capabilities: ...

    def preferred_kv_type(self, device: DeviceProfile, shape: ModelShape) -> KvType:
        """The type of K and V when the request names none."""
        ...

    def kv_bytes(self, shape: ModelShape, policy: WindowPolicy, kv_type: KvType) -> int:
        """Bytes of K and V of one conversation, counted as they are stored."""
        ...

    def workspace_bytes(self, shape: ModelShape, *, early_exit: bool) -> int:
        """Bytes of the interpreter, the engine, the tokenizer, and one forward's activations and logits."""
        ...

    def exact_rows(self, device: DeviceProfile, tensor_types: Set[str], kv_type: KvType) -> int | None:
        """The most rows of one forward that equal single rows bit for bit. None: equal within rounding, or not known.

        `tensor_types` are the types of the file's matrices, from its header; empty if the file was not read.
        """
        ...

    def taught_bytes(
        self, draft: TaughtDraft, shape: ModelShape, policy: WindowPolicy, kv_type: KvType, n_conversations: int
    ) -> int | None:
        """Bytes that a taught draft adds: its weights, and K/V and kept states of each conversation. None: it cannot
        run this draft."""
        ...

    def is_measured_on(self, device: DeviceProfile) -> bool:
        """Whether the speeds in docs/speculation.md were measured with this backend on a device of this kind."""
        ...

    def engine_version(self) -> str:
        """The installed engine's version; "" without one."""
        ...

    def reads_gguf(self, architecture: str, *, n_files: int = 1) -> bool:
        """Whether it loads a GGUF model of this architecture that is split into `n_files`."""
        ...

    def reads_folder(self, architecture: str) -> bool:
        """Whether it loads folders of safetensors files of this architecture."""
        ...


@dataclass(frozen=True, slots=True)
class Scaling:
    """How quantized K and V are scaled: values that share a scale, and the bytes of that scale."""

    n_values: int
    n_bytes: int


_VALUE_BITS: Final[Mapping[ValueType, int]] = {"f32": 32, "f16": 16, "q8_0": 8, "q4_0": 4}
GRAMMAR_BYTES_PER_ENTRY: Final = 460  # the trie of llguidance: 21 MB for 49k entries, 120 MB for 262k
TOKENIZER_BYTES_PER_ENTRY: Final = 150  # docs/memory.md: vocabularies of 16k, 49k and 262k


def kv_row_bytes(kv_type: KvType, n_values: int, scaling: Scaling) -> int:
    """Bytes of `n_values` of K and as many of V, stored together, with their scales."""
    return sum(_row_bytes(kind, n_values, scaling) for kind in of_k_and_v(kv_type))


def _row_bytes(kind: ValueType, n_values: int, scaling: Scaling) -> int:
    scales = -(-n_values // scaling.n_values) * scaling.n_bytes if kind in ("q8_0", "q4_0") else 0
    return n_values * _VALUE_BITS[kind] // 8 + scales


def forward_bytes(shape: ModelShape, n_rows: int, n_outputs: int) -> int:
    """Activations of a forward of `n_rows`, and `n_outputs` rows of logits: in the graph, and as they are returned."""
    return n_rows * (7 * shape.hidden + 5 * shape.n_ffn) * 4 + 2 * n_outputs * shape.n_vocab * 4


NOT_ON_PHONES: Final = "phones and tablets run bundles that `edgeinfer export` makes"
ON_PHONES_HINT: Final = (
    "leave out --backend and --tier; for a folder, `edgeinfer export FOLDER --device NAME --out NEW` says how it fits"
)

TAPPED_ROWS: Final = 512
"""Positions whose states are kept for a taught draft: two chunks of a prompt."""


def tapped_bytes(draft: TaughtDraft, shape: ModelShape) -> int:
    return TAPPED_ROWS * draft.n_taps * shape.hidden * 4


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def installed_version(package: str) -> str:
    """The version of a Python package; "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # asking is rare, and the import is slow

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
