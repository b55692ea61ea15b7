"""Facts of the toy backend: those of the reference under another name."""

from dataclasses import replace

from edgeinfer.backends.reference.facts import FACTS as REFERENCE

FACTS = replace(REFERENCE, name="toy", package="tests.toy_backend", on_request_only=False)
