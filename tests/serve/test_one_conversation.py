"""A server of one conversation has every drafter of `edgeinfer chat`; one of several cannot draft with early layers."""

from __future__ import annotations

import edgeinfer
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.plan import Request
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running
from tests.serve.test_openai_chat import LONG


def test_it_drafts_with_early_layers_and_says_the_same(server: Server) -> None:
    beside = server.chat(LONG, max_tokens=60, temperature=0).json["choices"]
    plan = edgeinfer.choose(Request(model="demo", context=1024, sink=512))
    for single in running(Access("127.0.0.1"), plan):
        (slot,) = single.served.scheduler._slots
        assert "early-exit" in slot.decoder._drafters
        slot.decoder._drafters = {"early-exit": EarlyExit()}  # the gated one drafts where it expects to gain
        for depth in (3, 5):
            slot.decoder._controller = Fixed(Arm("early-exit", depth))
            reply = single.chat(LONG, max_tokens=60, temperature=0).json
            assert reply["choices"] == beside
            assert 0 < reply["edgeinfer"]["accepted"] <= reply["edgeinfer"]["drafted"]
