"""Devices, models and backends of chosen sizes, for tests of the planner."""

from dataclasses import dataclass, replace

from edgeinfer.backends.gguf.facts import LlamaCppFacts
from edgeinfer.backends.mlx.facts import MlxFacts
from edgeinfer.catalog import Artifact, Catalog, LayerKv, ModelEntry, ModelShape, Tier
from edgeinfer.device import DeviceProfile, EngineSpeed
from edgeinfer.plan import Capabilities
from edgeinfer.types import GREEDY

GB = 1_000_000_000
TIERS = {
    "Q4_0": Tier("Q4_0", 4.5, 40),
    "Q4_K_M": Tier("Q4_K_M", 5.0, 50),
    "Q8_0": Tier("Q8_0", 8.5, 80),
    "mlx-4bit-g64": Tier("mlx-4bit-g64", 4.5, 42),
}


@dataclass(frozen=True)
class MlxAnywhere(MlxFacts):
    """The facts of MLX on a Mac, whatever machine runs the test."""

    def capabilities(self, device: DeviceProfile) -> Capabilities:
        return replace(MlxFacts.capabilities(self, device), unavailable="", hint="")


GGUF = LlamaCppFacts()
MLX = MlxAnywhere()
SHAPE = ModelShape(
    architecture="llama",
    n_layers=10,
    hidden=1024,
    n_heads=16,
    n_ffn=4096,
    n_vocab=32000,
    limit=16384,
    kv=(LayerKv(10, 4, 64),),
    n_params=1_000_000_000,
    n_active_params=1_000_000_000,
)


def device(free_gb: float = 8, gb_per_s: float = 100) -> DeviceProfile:
    return DeviceProfile(
        name="test machine",
        os="linux",
        chip="test",
        cpu_features=frozenset({"avx2"}),
        n_cores=4,
        total_bytes=int(2 * free_gb * GB),
        available_bytes=int(free_gb * GB),
        ceiling_bytes=int(2 * free_gb * GB),
        ceiling_source="test",
        bandwidth_bytes_per_s=int(gb_per_s * GB),
        bandwidth_source="test",
        accelerators=frozenset(),
        named=True,
        speeds=(EngineSpeed("gguf", 0.7, 100e-6), EngineSpeed("mlx", 0.9, 50e-6)),
    )


def artifact(gb: float, tier: str = "Q4_K_M", backend: str = "gguf", tensors: tuple[str, ...] = ()) -> Artifact:
    n_bytes = int(gb * GB)
    by_type = tuple((name, n_bytes // len(tensors)) for name in tensors)
    return Artifact(backend, tier, n_bytes, "org/model", f"model-{tier}.gguf", tensors=by_type)


def model(name: str, rank: int, *artifacts: Artifact, shape: ModelShape = SHAPE) -> ModelEntry:
    return ModelEntry(name, name.title(), "mit", False, rank, "test", shape, GREEDY, artifacts)


def catalog(*models: ModelEntry) -> Catalog:
    return Catalog(tuple(sorted(models, key=lambda one: one.rank)), (), TIERS, {})


def with_shape(**changes: object) -> ModelShape:
    return replace(SHAPE, **changes)  # type: ignore[arg-type]
