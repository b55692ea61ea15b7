"""Runs what generate.py wrote, on a CUDA GPU: `python tests/metal/cuda/run.py FOLDER REPORT [compare]`. Needs nvcc,
PyTorch and NumPy. With `compare` it neither builds nor times, for compute-sanitizer.

First every launch of the value checks against the simulator's outputs; then, at the shapes of real models, each kernel
against a twin in PyTorch, for values and for time.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

CACHE_BYTES = 256 << 20  # layers are cycled until they are larger than this, so that no cache holds them (H200: 60 MB)
MOST = 2e-2  # difference from a twin that rounds K, V and logits to float16
Launch = dict[str, Any]


def build(folder: Path) -> None:
    def one(source: Path) -> None:
        command = [
            "nvcc",
            "-O3",
            "-arch=sm_90",
            "-shared",
            "-Xcompiler",
            "-fPIC",
            "-o",
            str(source.with_suffix(".so")),
            str(source),
        ]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, sorted(folder.glob("*.cu"))))


class Library:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, Any] = {}

    def run(self, launch: Launch, arrays: list[torch.Tensor]) -> None:
        """`arrays`: inputs, then outputs."""
        name = launch["library"]
        if name not in self.loaded:
            self.loaded[name] = ctypes.CDLL(str(self.folder / f"{name}.so"))
        pointers = (ctypes.c_void_p * len(arrays))(*[array.data_ptr() for array in arrays])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = self.loaded[name].launch(pointers, *launch["grid"], launch["threads"], stream)
        if status:
            raise RuntimeError(f"{name}: CUDA error {status}")


def torch_type(name: str) -> torch.dtype:
    return getattr(torch, name)


def compare(library: Library, folder: Path, case: Launch) -> tuple[bool, float]:
    """Equal within the case's tolerance, and the worst difference relative to max(1, |expected|)."""
    data = np.load(folder / f"{case['data']}.npz")
    arrays = []
    for (shape, kind), key in zip(case["arrays"], data.files, strict=True):
        raw = torch.frombuffer(bytearray(data[key].tobytes()), dtype=torch_type(kind))
        arrays.append(raw.reshape(shape).cuda())
    n_outputs = len(case["outputs"])
    expected = arrays[-n_outputs:]
    got = [torch.full_like(array.view(torch.uint8), 0xFF).view(array.dtype) for array in expected]
    library.run(case, arrays[:-n_outputs] + got)
    torch.cuda.synchronize()
    worst = 0.0
    for mine, other in zip(got, expected, strict=True):
        if mine.dtype in (torch.int32, torch.uint32):
            equal = bool((mine.view(torch.int32) == other.view(torch.int32)).all())
            worst = max(worst, 0.0 if equal else float("inf"))
        else:
            a, b = mine.double(), other.double()
            worst = max(worst, float(((a - b).abs() / b.abs().clamp(min=1)).nan_to_num(float("inf")).max()))
    return worst <= case["tolerance"], worst


# ---- twins in PyTorch


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """[H, S, D] half -> [H, S, words] int32, as ring.h."""
    heads, slots, width = values.shape
    levels, per_word = (1 << bits) - 1, 32 // bits
    groups = values.float().reshape(heads, slots, -(-width // 64), -1)
    low = groups.amin(-1, keepdim=True)
    bias, scale = low.half(), ((groups.amax(-1, keepdim=True) - low) / levels).half()
    codes = (
        ((groups - bias.float()) / scale.float()).round().clamp(0, levels).long().reshape(heads, slots, -1, per_word)
    )
    words = (codes << (torch.arange(per_word, device=values.device) * bits)).sum(-1).to(torch.int64)
    words = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    affine = torch.cat([scale, bias], -1).contiguous().view(torch.int32).reshape(heads, slots, -1)
    return torch.cat([words, affine], -1)


def unpack(packed: torch.Tensor, width: int, bits: int) -> torch.Tensor:
    heads, slots, _ = packed.shape
    n_words, groups, per_word = width * bits // 32, -(-width // 64), 32 // bits
    shifts = torch.arange(per_word, device=packed.device, dtype=torch.int32) * bits
    codes = (packed[..., :n_words, None] >> shifts) & ((1 << bits) - 1)
    affine = packed[..., n_words:].contiguous().view(torch.half).reshape(heads, slots, groups, 2)
    values = codes.reshape(heads, slots, groups, -1).half() * affine[..., :1] + affine[..., 1:]
    return values.reshape(heads, slots, width)


def mask_of(entry: dict[str, Any]) -> torch.Tensor:
    sink, window, block = entry["policy"]
    start, end = entry["start"], entry["start"] + entry["rows"]
    slot = torch.arange(sink + window, device="cuda")
    newest = end - 1 - (end - 1 - (slot - sink)) % window
    held = torch.where(slot < sink, slot, newest)
    query = torch.arange(start, end, device="cuda")[:, None]
    oldest = query // block * block - (window - block)
    return (held <= query) & ((held < sink) | (held >= oldest))


def attend_twin(q: torch.Tensor, ring: torch.Tensor, mask: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    half_row = ring.shape[-1] // 2
    k, v = ring[..., :half_row], ring[..., half_row:]
    if bits < 16:
        k, v = unpack(k, width, bits), unpack(v, width, bits)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k[None], v[None], attn_mask=mask, scale=width**-0.5, enable_gqa=True
    )


def head_twin(x: torch.Tensor, weight: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    normed = torch.nn.functional.rms_norm(x.float(), (x.shape[-1],), weight.float(), 1e-5).half()
    logits = (normed @ table.T).float()
    top = logits.max(-1)
    return top.indices, torch.exp(top.values - logits.logsumexp(-1))


# ---- time


def graph_ms(call: Any, n_layers: int) -> float:
    """Milliseconds of one call, the median of 15 replays of a graph that makes `n_layers` calls on different data."""
    for layer in range(n_layers):
        call(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(n_layers):
            call(layer)
    times = []
    for _ in range(18):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / n_layers)
    return float(np.median(times[3:]))


def chain(
    library: Library, launches: list[Launch], first: list[torch.Tensor], by_name: dict[int, torch.Tensor]
) -> list[torch.Tensor]:
    """Run launches in order; a later one takes the outputs of the one before it, then its own small inputs."""
    outputs: list[torch.Tensor] = []
    for number, launch in enumerate(launches):
        given = first if number == 0 else [*outputs, *[by_name[i] for i in range(len(outputs), len(launch["inputs"]))]]
        outputs = [torch.empty(shape, dtype=torch_type(kind), device="cuda") for shape, kind in launch["outputs"]]
        library.run(launch, given + outputs)
    return outputs


def small_inputs(launch: Launch) -> dict[int, torch.Tensor]:
    return {
        i: torch.tensor(value, dtype=torch_type(kind), device="cuda")
        for i, (value, (_, kind)) in enumerate(zip(launch["values"], launch["inputs"], strict=True))
        if value is not None
    }


def time_attend(library: Library, entry: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(1)
    width, heads, bits = entry["head_dim"], entry["kv_heads"], entry["bits"]
    slots, launches = entry["policy"][0] + entry["policy"][1], entry["launches"]
    n_layers = max(2, -(-CACHE_BYTES // entry["ring_bytes"]))
    q = torch.randn(1, heads * entry["group"], entry["rows"], width, device="cuda").half()
    rings = []
    for _ in range(n_layers):
        k, v = (torch.randn(heads, slots, width, device="cuda").half() for _ in range(2))
        rings.append(torch.cat([k, v] if bits == 16 else [pack(k, bits), pack(v, bits)], -1).contiguous())
    mask = mask_of(entry)
    smalls = [small_inputs(launch) for launch in launches]

    def kernel(layer: int) -> list[torch.Tensor]:
        first = [q, rings[layer], *[smalls[0][i] for i in (2, 3, 4)]]
        return chain(library, launches, first, smalls[-1])

    def twin(layer: int) -> torch.Tensor:
        return attend_twin(q, rings[layer], mask, bits, width)

    got, expected = kernel(0)[0].reshape(q.shape), twin(0)
    torch.cuda.synchronize()
    worst = float((got.double() - expected.double()).abs().max())
    return measured(entry, kernel, twin, n_layers, worst, entry["ring_bytes"])


def time_head(library: Library, entry: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(2)
    n_ids, width, bits, launches = entry["ids"], entry["width"], entry["bits"], entry["launches"]
    n_layers = max(2, -(-CACHE_BYTES // entry["table_bytes"]))
    x, weight = torch.randn(1, width, device="cuda").half(), torch.randn(width, device="cuda").half()
    heads = []
    for _ in range(n_layers):
        if bits == 16:
            table = (torch.randn(n_ids, width, device="cuda") * 0.05).half()
            heads.append((table, table, table))
        else:
            heads.append(random_codes(n_ids, width, bits))
    smalls = [small_inputs(launch) for launch in launches]

    unpacked = (
        heads[0][0] if bits == 16 else dequantized(*heads[0], bits)
    )  # the twin is timed on 16-bit weights that were unpacked before

    def kernel(layer: int) -> list[torch.Tensor]:
        return chain(library, launches, [x, weight, *heads[layer], smalls[0][5], smalls[0][6]], smalls[1])

    def twin(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return head_twin(x, weight, heads[layer][0] if bits == 16 else unpacked)

    token, _, share = kernel(0)
    other, other_share = twin(0)
    torch.cuda.synchronize()
    worst = abs(float(share[0]) / float(other_share[0]) - 1) if int(token[0]) == int(other[0]) else float("inf")
    return measured(entry, kernel, twin, n_layers, worst, entry["table_bytes"])


def time_matmul(library: Library, entry: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(3)
    n_outs, width, bits, launches = entry["outs"], entry["width"], entry["bits"], entry["launches"]
    n_layers = max(2, -(-CACHE_BYTES // entry["table_bytes"]))
    x = torch.randn(entry["rows"], width, device="cuda").half()
    matrices = [random_codes(n_outs, width, bits) for _ in range(n_layers)]
    sizes = small_inputs(launches[0])[4]
    unpacked = dequantized(*matrices[0], bits)  # the twin is timed on 16-bit weights that were unpacked before

    def kernel(layer: int) -> torch.Tensor:
        return chain(library, launches, [x, *matrices[layer], sizes], {})[0]

    def twin(layer: int) -> torch.Tensor:
        return x @ unpacked.T

    got, expected = kernel(0).double(), x.double() @ unpacked.double().T
    torch.cuda.synchronize()
    worst = float(((got - expected).abs() / expected.abs().clamp(min=1)).max())
    return measured(entry, kernel, twin, n_layers, worst, entry["table_bytes"])


def random_codes(n_rows: int, width: int, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and biases of a matrix, in groups of 64."""
    codes = torch.randint(-(1 << 31), (1 << 31) - 1, (n_rows, width * bits // 32), device="cuda").int()
    scales = (torch.rand(n_rows, width // 64, device="cuda") * 0.1 / (1 << bits)).half()
    return codes, scales, (-scales * (1 << (bits - 1))).half()


def dequantized(codes: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, bits: int) -> torch.Tensor:
    shifts = torch.arange(32 // bits, device="cuda", dtype=torch.int32) * bits
    values = ((codes[..., None] >> shifts) & ((1 << bits) - 1)).reshape(*scales.shape, 64).half()
    return (values * scales[..., None] + biases[..., None]).reshape(len(codes), -1)


def measured(
    entry: dict[str, Any], kernel: Any, twin: Any, n_layers: int, worst: float, n_bytes: int
) -> dict[str, Any]:
    """Kernel, twin, kernel, twin: the better of two each."""
    times = [graph_ms(call, n_layers) for call in (kernel, twin, kernel, twin)]
    mine, other = min(times[0], times[2]), min(times[1], times[3])
    row = {key: entry[key] for key in entry if key not in ("launches", "policy")}
    return row | {"kernel_us": mine * 1e3, "twin_us": other * 1e3, "gb_per_s": n_bytes / mine / 1e6, "worst": worst}


TIMES = {"attend": time_attend, "head": time_head, "matmul": time_matmul}


def main() -> None:
    folder, report = Path(sys.argv[1]), Path(sys.argv[2])
    only_compare = sys.argv[3:] == ["compare"]
    if not only_compare:
        build(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    library = Library(folder)
    compared = [(case, *compare(library, folder, case)) for case in manifest["cases"]]
    wrong = [(case["library"], worst) for case, good, worst in compared if not good]
    rows = []
    for entry in [] if only_compare else manifest["timed"]:
        rows.append(TIMES[entry["kind"]](library, entry))
        if rows[-1]["worst"] > MOST:
            wrong.append((f"{entry['kind']} {entry['model']} {entry['bits']} bits", rows[-1]["worst"]))
        print(json.dumps(rows[-1]), flush=True)
        torch.cuda.empty_cache()
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[-2]
    worst_of: dict[str, list[Any]] = {}
    for case, _, worst in compared:
        name = case["kernel"]
        worst_of[name] = [worst_of.get(name, [0, 0.0])[0] + 1, max(worst_of.get(name, [0, 0.0])[1], worst)]
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "nvcc": nvcc,
        "compared": worst_of,
        "wrong": wrong,
        "timed": rows,
    }
    report.write_text(json.dumps(result, indent=1))
    print(f"{len(compared)} launches compared, {len(wrong)} wrong: {wrong}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
