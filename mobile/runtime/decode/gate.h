// What the gate has learned from drafts: how often each confidence is right, and which confidence follows which.
// edgeinfer/decode/policy/gate.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace edgeinfer {

constexpr int kBuckets = 11;
constexpr int kUnknown = kBuckets;     // the state after a round without drafts
constexpr int kMissed = kBuckets + 1;  // the state after a rejected draft
constexpr int kStates = kBuckets + 2;

// Softmax probability of `token`. row: [n_vocab].
double confidence(const float* row, int64_t n_vocab, int32_t token);

int bucket(double probability);

// Acceptance rate of each confidence bucket, and which bucket follows which. A state is a bucket,
// kUnknown or kMissed.
class Gate {
 public:
  // `agreement` is the share of the drafter's drafts that are known to be right, from 0 to 1.
  explicit Gate(std::optional<double> agreement = std::nullopt);

  // Forgets half of what follows what: the next answer may be easier or harder.
  void begin_answer();
  // Probability that a draft of this bucket is accepted, given that those before it were.
  double acceptance(int state) const { return accepted_[state] / tries_[state]; }
  void learn(int state, bool accepted);
  // The draft after one of state `before` was of bucket `after`.
  void learn_transition(int before, int after);
  // Probability of each bucket for the draft after `state`.
  std::array<double, kBuckets> following(int state) const;

 private:
  double prior_next(int state, int after) const { return shares_[after] + (state == after ? 2.0 : 0.0); }

  std::array<double, kBuckets> shares_;  // prior of what follows: weights of the buckets
  std::array<double, kBuckets> accepted_;
  std::array<double, kBuckets> tries_;
  std::array<std::array<double, kBuckets>, kStates> next_;
};

}  // namespace edgeinfer
