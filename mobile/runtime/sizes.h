// The window of a context, and the memory of a bundle before it is opened. edgeinfer/plan/fit.py.
#pragma once

#include <cstdint>

#include "engine/window.h"
#include "text/manifest.h"

namespace edgeinfer {

// The policy with the largest `sink + window` up to `context` positions, of a model of `limit`. 0 and -1 stand for the
// defaults. Throws Failure where none fits.
WindowPolicy make_policy(int64_t context, int64_t sink, int64_t limit);

// Bytes that running a bundle takes besides packed weights and K/V: activations, logits, tokenizer and library.
int64_t workspace_bytes(const Manifest& manifest);

}  // namespace edgeinfer
