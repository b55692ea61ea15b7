"""Early exit on llama.cpp: parts of its own graph are computed, in place. No second copy of any weight or key.

A conversation has three contexts ("lanes") over one memory of keys and values: the plain one, which is untouched; one
that drafts (layers [0, exit_layer), norm and head) and one that verifies (the other layers, from the hidden states that
the drafts left). Each lane keeps its own graph between calls, so that drafting and verifying in turn builds none.
"""
