// The window of a context, and the memory of a bundle before it is opened. edgeinfer/plan/fit.py.
#pragma once

#include <cstdint>

#include "engine/window.h"
#include "text/manifest.h"

namespace edgeinfer {

// The policy with the largest `sink + window` up to `context` positions, for a model of `limit` positions. `context` 0
// and `sink` -1 are the defaults. Throws Failure if no policy fits.
WindowPolicy make_policy(int64_t context, int64_t sink, int64_t limit);

// Memory of one session in bytes: K and V, and what a taught draft keeps.
int64_t session_bytes(const Manifest& manifest, const WindowPolicy& policy, bool opens_draft);

// Memory of an open bundle in bytes, without packed weights and K/V: activations, logits, tokenizer and library.
int64_t workspace_bytes(const Manifest& manifest);

}  // namespace edgeinfer
