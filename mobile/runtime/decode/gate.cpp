#include "gate.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "../engine/vectors.h"

namespace edgeinfer {
namespace {

constexpr double kBucketEdges[] = {0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99};
constexpr double kPriorAcceptance[kBuckets] = {0.1, 0.25, 0.4, 0.55, 0.68, 0.78, 0.87, 0.94, 0.97, 0.985, 0.995};
constexpr double kPriorWeight = 4.0;
constexpr double kMemoryTokens = 200.0;

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

Gate::Gate() {
  for (int state = 0; state < kBuckets; ++state) {
    accepted_[state] = kPriorAcceptance[state] * kPriorWeight;
    tries_[state] = kPriorWeight;
  }
  for (int state = 0; state <= kBuckets; ++state)
    for (int after = 0; after < kBuckets; ++after) next_[state][after] = state == after ? 3.0 : 1.0;
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

double Gate::expected_gain(int state, double row_price) const {
  const auto& counts = next_[state];
  double gain = 0.0;
  for (int after = 0; after < kBuckets; ++after) gain += counts[after] * std::max(0.0, acceptance(after) - row_price);
  return gain / std::accumulate(counts.begin(), counts.end(), 0.0);
}

int64_t n_worth_verifying(const std::vector<double>& acceptance, double tokens_per_time,
                          const std::function<double(int64_t)>& time) {
  double tokens = 1.0, reached = 1.0, best_value = 1.0 - tokens_per_time * time(0);
  int64_t best = 0, n = 0;
  for (const double rate : acceptance) {
    reached *= rate;
    tokens += reached;
    const double value = tokens - tokens_per_time * time(++n);
    if (value > best_value) {
      best = n;
      best_value = value;
    }
  }
  return best;
}

double marginal_row_time(const std::function<double(int64_t)>& time, int64_t rows, int64_t max_rows) {
  const double now = time(rows);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t more = rows + 1; more <= std::max(max_rows, rows + 1); ++more)
    least = std::min(least, (time(more) - now) / static_cast<double>(more - rows));
  return least;
}

}  // namespace edgeinfer
