// The window of a context, and the memory of a bundle before it is opened. edgeinfer/plan/fit.py.
#pragma once

#include <cstdint>

#include "engine/window.h"

namespace edgeinfer {

// The policy with the largest `sink + window` up to `context` positions, of a model of `limit`. 0 and -1 stand for the
// defaults. Throws Failure where none fits.
WindowPolicy make_policy(int64_t context, int64_t sink, int64_t limit);

}  // namespace edgeinfer
