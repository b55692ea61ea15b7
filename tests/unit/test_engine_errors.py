"""No engine exception leaves its backend: every type that an engine can raise becomes an EdgeInferError."""

import contextlib
import ctypes
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgeinfer
from edgeinfer import backends
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.errors import EngineError, RewindError
from tests.tiny_gguf import Tiny, write_tiny

ENGINES = ("builtins", "ctypes", "numpy", "mlx", "llama_cpp", "gguf", "safetensors", "tokenizers")
SHAPES = {  # methods that the rest of the program calls
    "backend": {"probe", "load"},
    "model": {"run", "new_cache", "close"},
    "cache": {"begin", "rewind", "close"},
    "round": {"draft", "verify", "commit", "rollback"},
    "row": {"argmax", "numpy"},
}


def engine_exceptions() -> list[Exception]:
    """One instance of each exception type that an installed engine defines or raises."""
    for name in ENGINES:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    found: list[Exception] = []
    kinds: list[type[Exception]] = [Exception]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in ENGINES and not inspect.isabstract(kind):
            found.append(made(kind))
    return found


ARGUMENTS = (
    ("the engine\ngave up",),
    (),
    ("utf-8", b"x", 0, 1, "y"),
    ("utf-8", "x", 0, 1, "y"),
    ("x", 0, 1, "y"),
    ("", [OSError()]),
)


def made(kind: type[Exception]) -> Exception:
    for arguments in ARGUMENTS:
        with contextlib.suppress(TypeError, AssertionError):
            return kind(*arguments)
    return kind.__new__(kind)  # only its engine can fill this one in; converting it to text may fail as well


EXCEPTIONS = engine_exceptions()


def test_the_walk_finds_exceptions_of_engines() -> None:
    kinds = {type(error) for error in EXCEPTIONS}
    assert {ValueError, RuntimeError, OSError, MemoryError, ctypes.ArgumentError, np.linalg.LinAlgError} <= kinds


@maps_engine_errors("an engine")
class Engine:
    def __init__(self) -> None:
        self.error: BaseException = ValueError()

    def run(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_every_exception_becomes_one_line(error: Exception) -> None:
    engine = Engine()
    engine.error = error
    with pytest.raises(EngineError) as caught:
        engine.run()
    assert str(caught.value).startswith("an engine: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert ("--context" in caught.value.hint) is isinstance(error, MemoryError)


@pytest.mark.parametrize("error", [RewindError("gone"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_our_own_errors_and_interrupts_pass(error: BaseException) -> None:
    engine = Engine()
    engine.error = error
    with pytest.raises(type(error)) as caught:
        engine.run()
    assert caught.value is error


def seam_classes(backend: str) -> Iterator[tuple[type, str]]:
    """Each backend class that the rest of the program calls, with one of its methods."""
    package = importlib.import_module(backends.facts_of(backend).package)
    names = [name for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in [package.__name__, *names]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:  # modules that make models, with tools that need not be installed
            continue
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == name and not getattr(value, "_is_protocol", False):
                members = {member for member in dir(value) if not member.startswith("_")}
                for verbs in SHAPES.values():
                    if verbs <= members:
                        yield from ((value, verb) for verb in sorted(verbs - {"probe"}))


@pytest.mark.filterwarnings("ignore")  # from torch and ExecuTorch, which the exporter imports
@pytest.mark.parametrize("backend", [facts.name for facts in backends.FACTS])
def test_every_method_that_is_called_from_outside_maps_exceptions(backend: str) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    verbs = list(seam_classes(backend))
    assert len({kind for kind, _ in verbs}) >= 4  # backend, model, cache, round; a `HeldRow` makes no engine call
    bare = {f"{kind.__qualname__}.{verb}" for kind, verb in verbs if not hasattr(getattr(kind, verb), "__wrapped__")}
    assert bare == set()


def load_tiny(tmp_path: Path, backend: str) -> edgeinfer.LoadedModel:
    model = write_tiny(tmp_path / "tiny.gguf", Tiny())
    return edgeinfer.load(edgeinfer.Request(model=str(model), backend=backend, context=512, sink=64, speculation="off"))


def breaks(error: Exception) -> Callable[..., object]:
    def raises(*_: object, **__: object) -> object:
        raise error

    return raises


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), ValueError("bad shape"), OSError(5, "lost"), StopIteration()]
)
def test_an_answer_whose_engine_raises_ends_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The next answer is exact."""
    from edgeinfer.backends.gguf import llama

    with load_tiny(tmp_path, "gguf") as loaded:
        whole = loaded.stream("the rain", sampling=edgeinfer.GREEDY, max_tokens=8).finish()
        stream = loaded.stream("the rain", sampling=edgeinfer.GREEDY, max_tokens=8)
        next(stream)
        with monkeypatch.context() as broken:
            broken.setattr(llama, "_decode", breaks(error))
            with pytest.raises(EngineError, match=r"llama\.cpp: "):
                list(stream)
        assert loaded.stream("the rain", sampling=edgeinfer.GREEDY, max_tokens=8).finish().tokens == whole.tokens


def test_a_model_whose_engine_raises_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeinfer.backends.gguf import llama

    monkeypatch.setattr(llama, "_decode", breaks(RuntimeError("no such kernel")))
    with pytest.raises(EngineError, match=r"llama\.cpp: no such kernel"):
        load_tiny(tmp_path, "gguf")
