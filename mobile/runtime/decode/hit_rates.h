// Acceptance rates for prompt lookup, as a two-state mixture: the model is copying, or it is writing new text.
// edgeinfer/decode/drafters/hit_rates.py says where the numbers come from.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace edgeinfer {

// How often matches of one conversation were right.
class HitRates {
 public:
  HitRates();

  // Call when another conversation begins: moves most of the way back to the priors.
  void begin_conversation();
  // The token after a match of `length` was the expected one, or was not.
  void learn(int64_t length, uint8_t fork, bool hit);
  // Acceptance rate of each draft after a match of `length`, given that those before it are accepted. Ends
  // where few rounds arrive.
  std::vector<double> acceptance(int64_t length, const std::vector<uint8_t>& forks) const;

 private:
  using Table = std::array<std::array<double, 3>, 5>;  // by the length of the match, then by fork

  double log_odds_;  // that the model is copying
  Table copying_;
  Table new_text_;
};

}  // namespace edgeinfer
