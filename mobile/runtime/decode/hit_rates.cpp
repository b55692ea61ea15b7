#include "hit_rates.h"

#include <algorithm>
#include <cmath>

namespace edgeinfer {
namespace {

constexpr int64_t kMatchLengths[] = {1, 2, 4, 8, 16};  // the shortest match of each row of a table
constexpr double kCopyingRates[5][3] = {
    {0.77, 0.14, 0.14}, {0.93, 0.83, 0.61}, {0.95, 0.90, 0.71}, {0.967, 0.94, 0.79}, {0.977, 0.93, 0.86}};
constexpr double kNewTextRates[5][3] = {
    {0.27, 0.12, 0.12}, {0.59, 0.39, 0.24}, {0.71, 0.64, 0.47}, {0.81, 0.76, 0.76}, {0.99, 0.99, 0.99}};
const double kPriorLogOdds = std::log(0.2 / 0.8);
constexpr double kMaxLogOdds = 4.0;
constexpr double kLogOddsDecay = 0.98;
constexpr double kLearningRate = 0.02;
constexpr double kMinRate = 0.01, kMaxRate = 0.99;
constexpr double kKeptInNewConversation = 0.3;
constexpr double kMinReached = 0.1;  // a draft that is reached less often is not considered

size_t length_class(int64_t length) {
  size_t row = 0;
  while (row + 1 < 5 && kMatchLengths[row + 1] <= length) ++row;
  return row;
}

// Log likelihood ratio of copying against new text.
double evidence(size_t row, uint8_t fork, bool hit) {
  const double a = kCopyingRates[row][fork], b = kNewTextRates[row][fork];
  return std::log(hit ? a / b : (1 - a) / (1 - b));
}

template <class Table>
void move_towards(const double (&priors)[5][3], double kept, Table& table) {
  for (size_t row = 0; row < 5; ++row)
    for (size_t fork = 0; fork < 3; ++fork)
      table[row][fork] = priors[row][fork] + kept * (table[row][fork] - priors[row][fork]);
}

}  // namespace

HitRates::HitRates() : log_odds_(kPriorLogOdds), copying_{}, new_text_{} {
  move_towards(kCopyingRates, 0.0, copying_);
  move_towards(kNewTextRates, 0.0, new_text_);
}

void HitRates::begin_conversation() {
  log_odds_ = kPriorLogOdds + kKeptInNewConversation * (log_odds_ - kPriorLogOdds);
  move_towards(kCopyingRates, kKeptInNewConversation, copying_);
  move_towards(kNewTextRates, kKeptInNewConversation, new_text_);
}

void HitRates::learn(int64_t length, uint8_t fork, bool hit) {
  const size_t row = length_class(length);
  double& rate = (log_odds_ > 0.0 ? copying_ : new_text_)[row][fork];
  rate += kLearningRate * ((hit ? kMaxRate : kMinRate) - rate);
  const double decayed = kPriorLogOdds + kLogOddsDecay * (log_odds_ - kPriorLogOdds);
  log_odds_ = std::clamp(decayed + evidence(row, fork, hit), -kMaxLogOdds, kMaxLogOdds);
}

std::vector<double> HitRates::acceptance(int64_t length, const std::vector<uint8_t>& forks) const {
  double copying = 1 / (1 + std::exp(-log_odds_)), new_text = 1 - copying, reached = 1.0;
  std::vector<double> rates;
  for (const uint8_t fork : forks) {
    const size_t row = length_class(length++);
    copying *= copying_[row][fork];
    new_text *= new_text_[row][fork];
    rates.push_back((copying + new_text) / reached);
    reached = copying + new_text;
    if (reached < kMinReached) break;
  }
  return rates;
}

}  // namespace edgeinfer
