"""A server drafts an answer that is alone with every drafter of `edgeinfer chat`, however many conversations it has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import edgeinfer
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.policy.arms import Arm, Fixed
from edgeinfer.plan import Request
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running
from tests.serve.test_openai_chat import LONG


@pytest.mark.parametrize("n", [1, 4])
def test_it_drafts_with_early_layers_and_says_the_same(server: Server, n: int) -> None:
    texts = [LONG, "List three colors."]
    plain = [said(server, text) for text in texts]
    how = Request(model="demo", context=1024, sink=512, conversations=n, speculation="early-exit")
    plan = edgeinfer.choose(how)
    for drafting in running(Access("127.0.0.1"), plan):
        for slot in drafting.served.scheduler._slots:
            assert "early-exit" in slot.decoder._drafters
            slot.decoder._drafters = {"early-exit": EarlyExit()}  # the gated one drafts where it expects to gain
        for depth in (3, 5):
            for slot in drafting.served.scheduler._slots:
                slot.decoder._controller = Fixed(Arm("early-exit", depth))
            reply = drafting.chat(LONG, max_tokens=60, temperature=0).json
            assert reply["choices"] == plain[0]
            assert 0 < reply["edgeinfer"]["accepted"] <= reply["edgeinfer"]["drafted"]
            with ThreadPoolExecutor(2) as pool:  # the shorter answer joins and leaves
                assert list(pool.map(partial(said, drafting), texts)) == plain


def said(server: Server, text: str) -> object:
    return server.chat(text, max_tokens=60, temperature=0).json["choices"]
