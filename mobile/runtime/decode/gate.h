// Whether to draft one more token: acceptance rates by the drafter's confidence, learned from accepted drafts.
// edgeinfer/decode/policy/gate.py.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace edgeinfer {

constexpr int kBuckets = 11;
constexpr int kUnknown = kBuckets;  // the state before the first draft, and after a rejected one

// Softmax probability of `token`. row: [n_vocab].
double confidence(const float* row, int64_t n_vocab, int32_t token);

int bucket(double probability);

// Acceptance rate of each confidence bucket, and which bucket follows which. States are buckets, or kUnknown.
class Gate {
 public:
  Gate();

  // Probability that a draft of this bucket is accepted, given that those before it were.
  double acceptance(int state) const { return accepted_[state] / tries_[state]; }
  void learn(int state, bool accepted);
  // The draft after one of state `before` was of bucket `after`.
  void learn_transition(int before, int after);
  // Tokens gained by one more draft after `state`. It is verified only if its acceptance exceeds `row_price`.
  double expected_gain(int state, double row_price) const;

 private:
  std::array<double, kBuckets> accepted_;
  std::array<double, kBuckets> tries_;
  std::array<std::array<double, kBuckets>, kBuckets + 1> next_;
};

// How many of the drafts to verify: the most expected tokens, less `tokens_per_time` for the time of the verify.
int64_t n_worth_verifying(const std::vector<double>& acceptance, double tokens_per_time,
                          const std::function<double(int64_t)>& time);

// Time of the row after `rows`: the lowest average over the counts up to `max_rows`, because kernels process rows in
// tiles and the rows that fill a tile are nearly free.
double marginal_row_time(const std::function<double(int64_t)>& time, int64_t rows, int64_t max_rows);

}  // namespace edgeinfer
