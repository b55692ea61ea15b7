// What one answer cost and kept: edgeinfer/decode/stats.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "protocols.h"

namespace edgeinfer {

// Why an answer ended.
enum class Finish : int32_t { running, stop, length, canceled };

// One arm of the controller: a drafter, or "none".
struct ArmStats {
  int64_t rounds = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  int64_t emitted = 0;
  double seconds = 0;
};

// Counts are tokens, times are seconds.
struct AnswerStats {
  int64_t prompt = 0;
  int64_t reused = 0;       // of the prompt, already in the cache
  int64_t prefilled = 0;    // of the prompt, newly run
  int64_t reprefilled = 0;  // run again because their keys were gone
  int64_t kept = 0;         // positions in the cache at the end
  int64_t evicted = 0;      // positions that left the window during this answer
  int64_t reanchored = 0;   // times the positions started again at 0
  int64_t emitted = 0;
  double prefill_s = 0;
  double first_token_s = 0;
  double decode_s = 0;
  Finish finish = Finish::running;
  std::map<std::string, ArmStats> arms;

  void add(const std::string& name, const Outcome& outcome, double seconds) {
    decode_s += seconds;
    ArmStats& arm = arms[name];
    ++arm.rounds;
    arm.drafted += outcome.drafted;
    arm.accepted += outcome.accepted;
    arm.emitted += outcome.emitted;
    arm.seconds += seconds;
  }
};

}  // namespace edgeinfer
