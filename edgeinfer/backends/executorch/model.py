"""A loaded bundle as a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.executorch.cache import ExecutorchCache
from edgeinfer.backends.executorch.engine import Program
from edgeinfer.backends.executorch.taught import ExecutorchTaught
from edgeinfer.backends.rounds import check_tokens, run_in_turn
from edgeinfer.protocols import Ask, Row, Tokenizer
from edgeinfer.types import DraftsWith
from edgeinfer.window import WindowPolicy


@maps_engine_errors("ExecuTorch")
class ExecutorchModel:
    """See protocols.Model. It drafts where its program has an exit or a taught draft; `exact_rows` was measured at
    export."""

    note = ""
    n_caches = sys.maxsize  # a cache allocates its own rings

    def __init__(
        self,
        program: Program,
        tokenizer: Tokenizer,
        *,
        exact_rows: int | None,
        taught: ExecutorchTaught | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.exit_layer = program.info.exit_layer or None
        self.drafts_with: DraftsWith = taught.kind if taught else "early-exit" if self.exit_layer else ""
        self.exact_rows = exact_rows
        self.n_threads = program.info.n_threads
        self._program = program
        self._taught = taught

    def new_cache(self, policy: WindowPolicy) -> ExecutorchCache:
        return ExecutorchCache(self._program.new_rings(policy), self._program.info, policy, self._taught)

    def run(self, asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
        check_tokens(asks, self._program.info.n_vocab)
        return run_in_turn(asks)

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._program.close()
