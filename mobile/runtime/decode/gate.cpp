#include "gate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../engine/vectors.h"

namespace edgeinfer {
namespace {

constexpr double kBucketEdges[] = {0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99};
constexpr double kPriorAcceptance[kBuckets] = {0.1, 0.25, 0.4, 0.55, 0.68, 0.78, 0.87, 0.94, 0.97, 0.985, 0.995};
constexpr double kPriorWeight = 4.0;
constexpr double kMemoryTokens = 200.0;
constexpr double kKeptInNewAnswer = 0.5;

constexpr double kMaxTilt = 50.0;  // means from 0.12 to 0.98 can be reached

// Weights that sum to their number and give the prior rates this mean, as near to equal ones as that allows.
std::array<double, kBuckets> tilted(double mean) {
  std::array<double, kBuckets> weights;
  double low = -kMaxTilt, high = kMaxTilt, sum = 0.0;
  for (int step = 0; step < 40; ++step) {
    const double tilt = (low + high) / 2;
    double found = 0.0;
    sum = 0.0;
    for (int i = 0; i < kBuckets; ++i) {
      weights[i] = std::exp(tilt * kPriorAcceptance[i]);
      sum += weights[i];
      found += weights[i] * kPriorAcceptance[i];
    }
    (found / sum < mean ? low : high) = tilt;
  }
  for (double& weight : weights) weight *= kBuckets / sum;
  return weights;
}

}  // namespace

double confidence(const float* row, int64_t n_vocab, int32_t token) {
  const float top = *std::max_element(row, row + n_vocab);
  Vec total = all(0.0f);
  int64_t id = 0;
  for (; id + kLanes <= n_vocab; id += kLanes) total += exp_negative(load(row + id) - all(top));
  float sums = sum(total);
  for (; id < n_vocab; ++id) sums += exp_negative(all(row[id] - top))[0];
  return double{exp_negative(all(row[token] - top))[0]} / sums;
}

int bucket(double probability) {
  return static_cast<int>(std::count_if(std::begin(kBucketEdges), std::end(kBucketEdges),
                                        [&](double edge) { return edge <= probability; }));
}

Gate::Gate(std::optional<double> agreement) {
  shares_.fill(1.0);
  if (agreement) shares_ = tilted(*agreement);
  for (int state = 0; state < kBuckets; ++state) {
    accepted_[state] = kPriorAcceptance[state] * kPriorWeight;
    tries_[state] = kPriorWeight;
  }
  for (int state = 0; state < kStates; ++state)
    for (int after = 0; after < kBuckets; ++after) next_[state][after] = prior_next(state, after);
}

void Gate::begin_answer() {
  for (int state = 0; state < kStates; ++state)
    for (int after = 0; after < kBuckets; ++after) {
      const double prior = prior_next(state, after);
      next_[state][after] = prior + kKeptInNewAnswer * (next_[state][after] - prior);
    }
}

void Gate::learn(int state, bool accepted) {
  if (tries_[state] >= kMemoryTokens) {
    accepted_[state] *= 1 - 1 / kMemoryTokens;
    tries_[state] *= 1 - 1 / kMemoryTokens;
  }
  accepted_[state] += accepted;
  tries_[state] += 1.0;
}

void Gate::learn_transition(int before, int after) {
  auto& counts = next_[before];
  if (std::accumulate(counts.begin(), counts.end(), 0.0) >= kMemoryTokens)
    for (double& count : counts) count *= 1 - 1 / kMemoryTokens;
  counts[after] += 1.0;
}

std::array<double, kBuckets> Gate::following(int state) const {
  auto shares = next_[state];
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= total;
  return shares;
}

}  // namespace edgeinfer
