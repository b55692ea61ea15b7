"""Which llama.cpp is installed, found without importing llama_cpp."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Final

__all__ = ["GET_STATES", "SET_STATES", "cpu_features", "cpu_library", "gives_states", "library_versions"]

# C++ names of two functions of llama-ext.h, which llama.cpp calls a staging area.
SET_STATES: Final = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"
GET_STATES: Final = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"


def gives_states() -> bool:
    """Whether this build of llama.cpp gives the states between layers. Raises what `library_versions` raises."""
    library = _library()
    return all(hasattr(library, name) for name in (SET_STATES, GET_STATES))


def library_versions() -> dict[str, str]:
    """Versions of the binding and of its llama.cpp, and the CPU features of that build.

    Raises ImportError when the binding is missing, OSError when its library cannot be loaded here.
    """
    library = _library()
    library.llama_version.restype = ctypes.c_char_p
    library.llama_print_system_info.restype = ctypes.c_char_p
    features = library.llama_print_system_info().decode("utf-8", "replace")
    return {
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "llama.cpp": library.llama_version().decode("utf-8", "replace"),
        "llama.cpp features": ", ".join(
            word.strip().removesuffix(" = 1") for word in features.split("|") if word.strip()
        ),
    }


def cpu_features() -> frozenset[str]:
    """What this build of llama.cpp uses of the processor, in its words. Raises what `library_versions` raises."""
    return frozenset(library_versions()["llama.cpp features"].split(", "))


def cpu_library() -> Path:
    """The library of ggml's CPU kernels, on Linux. Raises ImportError when the binding is missing."""
    return _folder() / "libggml-cpu.so"


def _folder() -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("it is not installed")
    return Path(spec.origin).parent / "lib"


def _library() -> ctypes.CDLL:
    folder = _folder()
    for name in ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise OSError(f"no llama library in {folder}")
