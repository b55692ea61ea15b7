from __future__ import annotations

from edgeinfer.plan.expect import speculation_note


def test_the_note_says_what_is_tried_and_what_it_may_bring() -> None:
    both = speculation_note(("lookup", "early-exit"), "Q4_0", (3, 12), exact=True)
    assert both == (
        "lookup where text repeats, early exit after layer 3 of 12 while it is sure; about 1.3 x on copied text, "
        "else little; plain where that is quicker; same tokens as plain decoding"
    )


def test_nothing_is_promised_that_was_not_measured() -> None:
    for drafters, tier in [(("lookup",), ""), (("lookup",), "Q2_K"), (("draft",), "Q4_0")]:
        note = speculation_note(drafters, tier, None, exact=False)
        assert " x " not in note
        assert note.endswith("plain where that is quicker; rows equal plain ones within rounding")
