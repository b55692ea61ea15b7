// From an open program to the drafters of a conversation: edgeinfer/decode/drafting.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache.h"
#include "decode/calibrate.h"
#include "decode/costs.h"
#include "protocols.h"

namespace edgeinfer {

enum class DraftMode : int32_t { automatic, never, lookup, early_exit, taught };

// Whether a taught draft of the bundle is opened.
inline bool opens_taught_draft(DraftMode mode) { return mode == DraftMode::automatic || mode == DraftMode::taught; }

// The drafters of one conversation. Without a controller it decodes plainly.
struct Drafting {
  std::vector<std::unique_ptr<Drafter>> drafters;  // one for each arm name but "none"
  std::unique_ptr<Controller> controller;          // it may hold on to the drafters
};

// How long the parts of a round take, read from `file` or measured now. The conversations of a program share it. Null
// if rounds of several rows would differ from plain ones, or if nothing is to be drafted.
std::unique_ptr<Costs> measure(Program& program, int64_t exact_rows, DraftMode mode, const CostFile& file);

// Why the drafter of this name has too little to win by these costs, with its name first; "" if it may win.
// `agreement` is that of a taught draft, by depth. edgeinfer/plan/taught.py.
std::string why_hopeless(const Costs& costs, const std::string& drafts_with, const std::vector<double>& agreement);

// New drafters and a new controller. `agreement` is that of a taught draft, by depth. Throws Failure for a mode that
// the program does not support.
Drafting new_drafting(const Program& program, Costs* costs, DraftMode mode, const std::vector<double>& agreement);

}  // namespace edgeinfer
