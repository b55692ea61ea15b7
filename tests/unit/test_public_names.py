"""The public API: every name works, and every type in a public signature is exported."""

import dataclasses
import inspect
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.errors import EdgeInferError
from tests.tiny_gguf import Tiny, write_tiny

PUBLIC = {name: getattr(edgeinfer, name) for name in edgeinfer.__all__}


def test_every_name_works_directly_after_the_import() -> None:
    code = "import edgeinfer, sys; value = getattr(edgeinfer, sys.argv[1]); assert value is not None"
    for name in ("errors", "load", "Sampling"):
        subprocess.run([sys.executable, "-c", code, name], check=True)
    assert issubclass(edgeinfer.errors.UsageError, edgeinfer.EdgeInferError)
    with pytest.raises(AttributeError, match="nonsense"):
        edgeinfer.nonsense  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert set(dir(edgeinfer)) == {*edgeinfer.__all__, "__version__"}
    assert edgeinfer.__all__ == sorted(edgeinfer.__all__, key=lambda name: (name.islower(), not name.isupper(), name))


def functions(value: object) -> Iterator[object]:
    """A function itself. For a class: its public methods and properties, and its constructor if callers use it."""
    if inspect.isfunction(value):
        yield value
    if not isinstance(value, type):
        return
    for name, member in vars(value).items():
        if isinstance(member, property):
            yield member.fget
        elif name == "add" and value is edgeinfer.AnswerStats:
            continue  # for the decoder
        elif inspect.isfunction(member) and (not name.startswith("_") or name in ("__next__", "__iter__")):
            yield member


def used_types(value: object) -> Iterator[type]:
    """The classes in the signatures of `value`, and in the fields of a dataclass or a TypedDict."""
    hints = [typing.get_type_hints(function) for function in functions(value)]
    if dataclasses.is_dataclass(value) or typing.is_typeddict(value):
        hints.append(typing.get_type_hints(value))
    stack: list[object] = [hint for found in hints for hint in found.values()]
    while stack:
        hint = stack.pop()
        stack += typing.get_args(hint)
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
            yield hint


def missing(public: dict[str, object]) -> dict[str, str]:
    exported = list(public.values())
    return {
        used.__qualname__: name
        for name, value in public.items()
        for used in used_types(value)
        if used.__module__.startswith("edgeinfer") and used not in exported
    }


def test_every_type_in_a_public_signature_is_exported() -> None:
    assert missing(PUBLIC) == {}


@pytest.mark.parametrize("name", ["Answer", "AnswerOptions", "AnswerStream", "Chat", "DeviceProfile", "Segment"])
def test_the_walk_sees_a_type_that_is_not_exported(name: str) -> None:
    assert name in missing({key: value for key, value in PUBLIC.items() if key != name})


def test_every_error_is_named_and_has_an_exit_code() -> None:
    errors = edgeinfer.errors
    tree = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeInferError)]
    assert sorted(kind.__name__ for kind in tree) == sorted(errors.__all__)
    for kind in tree:
        assert f"{kind.__name__} " in (errors.__doc__ or "")
        assert 2 <= kind.exit_code <= 130


def test_open_is_an_alias_of_load(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", Tiny())
    request = edgeinfer.Request(model=str(model), backend="reference", context=512, sink=64, speculation="off")
    with pytest.warns(DeprecationWarning, match=r"edgeinfer\.load"), edgeinfer.open(request) as loaded:
        assert isinstance(loaded, edgeinfer.LoadedModel)
