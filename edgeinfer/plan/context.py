"""Which window: the arithmetic from a wanted context to a policy."""

from __future__ import annotations

from edgeinfer.catalog.entry import ModelShape
from edgeinfer.errors import UsageError
from edgeinfer.window import MIN_BLOCK, WindowPolicy

__all__ = ["DEFAULT_CONTEXT", "DEFAULT_SINK", "check_context", "make_policy", "steps"]

DEFAULT_SINK = 128
DEFAULT_CONTEXT = 4096  # what a chat needs before it counts as comfortable; less only when asked for
_BLOCKS = 8  # of a window
_LEAST_WINDOW = 4 * MIN_BLOCK


def check_context(context: int, sink: int | None) -> None:
    """Raises UsageError for a context that no model could have."""
    if context - (sink or 0) < _LEAST_WINDOW:
        raise UsageError(
            f"context must hold {_LEAST_WINDOW} recent tokens and the sink; received {context} with sink {sink or 0}",
            hint=f"--context {_LEAST_WINDOW + (sink or 0)} is the smallest",
        )


def make_policy(shape: ModelShape, context: int, sink: int | None) -> WindowPolicy:
    """The policy with the largest `sink + window` up to `context` tokens. Raises UsageError where none fits."""
    check_context(context, sink)
    if sink is None:
        sink = min(DEFAULT_SINK, context - _LEAST_WINDOW)
    if context > shape.limit:
        raise UsageError(
            f"context must not pass the model's {shape.limit} positions; received {context}",
            hint=f"--context {shape.limit} is the largest",
        )
    window = context - sink
    step = _BLOCKS if window >= _BLOCKS * MIN_BLOCK else MIN_BLOCK
    window -= window % step
    limit = shape.short_limit if shape.short_limit and sink + window <= shape.short_limit else shape.limit
    return WindowPolicy(window, sink, max(MIN_BLOCK, window // _BLOCKS), limit)


def steps(shape: ModelShape) -> list[int]:
    """Contexts to choose from, smallest first: powers of two from the default, and the model's limit."""
    sizes = []
    size = DEFAULT_CONTEXT
    while size < shape.limit:
        sizes.append(size)
        size *= 2
    return [*sizes, shape.limit]
