#include "offers.h"

#include <algorithm>

namespace edgeinfer {

Offer best_length(const std::vector<double>& acceptance, const std::function<double(int64_t)>& time,
                  const std::vector<int64_t>& lengths) {
  double tokens = 1.0, reached = 1.0;
  Offer best{{"", 0}, 1.0, time(0)};
  for (size_t i = 0; i < acceptance.size(); ++i) {
    const int64_t n = static_cast<int64_t>(i) + 1;
    reached *= acceptance[i];
    tokens += reached;
    if (std::find(lengths.begin(), lengths.end(), n) == lengths.end()) continue;
    const double needed = time(n);
    if (tokens * best.expected_time > best.expected_tokens * needed) best = {{"", n}, tokens, needed};
  }
  return best;
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

}  // namespace edgeinfer
