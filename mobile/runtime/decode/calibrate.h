// Measures how long the parts of a round take, before the first answer, and keeps the result on disk:
// edgeinfer/decode/policy/calibrate.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "clock.h"
#include "costs.h"

namespace edgeinfer {

constexpr double kCalibrationS = 0.5;  // that calibration may add to an opening

// Rounds on a scratch conversation of the model. Every one is rolled back.
class TimedRounds {
 public:
  virtual ~TimedRounds() = default;

  virtual bool drafts() const = 0;
  // Runs a prompt up to this many positions.
  virtual void fill(int64_t length) = 0;
  // One draft of the round. Its logits are read.
  virtual void draft(int32_t token) = 0;
  // All layers for `tokens`, the first of which may have been drafted. The logits are read.
  virtual void verify(const std::vector<int32_t>& tokens) = 0;
  virtual void rollback() = 0;
};

// Times plain, verify and drafted rounds in turn until `budget_s` has passed. Keeps the lower quartile of each: other
// programs can only make a round slower. On a slow model it continues until every kind of round was timed once.
RowCosts calibrate(TimedRounds& rounds, int64_t max_rows, double budget_s = kCalibrationS,
                   const Clock& clock = steady_s);

// The processors of this machine, in one line.
std::string processor();

// Measured costs in a small file. It can be deleted at any time.
class CostFile {
 public:
  // `key` names the program, its engine and the processor: costs of another key are not used. An empty path keeps
  // nothing.
  CostFile(std::string path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}

  // Empty if the file is missing, damaged, of another key, or older than a week.
  std::optional<RowCosts> load() const;
  // Best effort: costs that cannot be written are measured again at the next start.
  void save(const RowCosts& costs) const;

 private:
  std::string path_;
  std::string key_;
};

}  // namespace edgeinfer
