// From an open program to the drafters of a conversation: edgeinfer/decode/drafting.py.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache.h"
#include "decode/calibrate.h"
#include "decode/costs.h"
#include "protocols.h"

namespace edgeinfer {

enum class DraftMode : int32_t { automatic, never, lookup, early_exit };

// What one conversation drafts with. Without a controller it decodes plainly.
struct Drafting {
  std::vector<std::unique_ptr<Drafter>> drafters;  // one for each arm name but "none"
  std::unique_ptr<Controller> controller;          // it may hold on to the drafters
};

// What the parts of a round take here, kept in `file` or measured now. One per program: its conversations share it.
// Nothing where rounds of several rows would not equal plain ones, or nothing is to be drafted.
std::unique_ptr<Costs> measure(Program& program, int64_t exact_rows, DraftMode mode, const CostFile& file);

// Drafters and a controller that have learned nothing yet. Throws Failure for a mode that the program does not have.
Drafting new_drafting(const Program& program, Costs* costs, DraftMode mode);

}  // namespace edgeinfer
