"""A bundle with a taught draft: the runtime opens it, says that it does not use it, and gives the tokens of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeinfer.types import Sampling
from tests.executorch.exported import bundle_of
from tests.runtime.built import Runtime
from tests.runtime.child import Process
from tests.runtime.oracle import Turn, answers
from tests.runtime.test_tokens import POLICY, random_ids
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny


@pytest.mark.parametrize(("kind", "taps", "exit_layer"), [("feature", (1, 2, 4), 0), ("exit", (), 2)])
def test_a_drafted_bundle_has_the_tokens_of_python(
    built: Runtime, in_python: Process, tmp_path: Path, kind: str, taps: tuple[int, ...], exit_layer: int
) -> None:
    model = write_tiny(tmp_path / "llama-F32.gguf", Tiny())
    write_tiny_draft(draft_beside(model), model, taps, exit_layer=exit_layer)
    bundle, prompt = bundle_of(model, "fp32"), random_ids(420, 1)
    [expected] = in_python(answers, bundle, POLICY, [Turn(prompt, 60, Sampling(temperature=0.0))])
    wanted = ["--context", str(POLICY.slots), "--sink", str(POLICY.sink), "--temp", "0", "--max-tokens", "60"]
    done = built.run(str(bundle), "--tokens", ",".join(map(str, prompt)), *wanted)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"note: this runtime does not use the {kind} draft of the bundle\n"
    assert [int(token) for token in done.stdout.split()] == expected
