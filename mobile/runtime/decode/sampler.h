// Choosing a token from a row: edgeinfer/decode/sampler.py, token for token.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "../protocols.h"

namespace edgeinfer {

// How a token is chosen. The defaults draw from the model's own distribution; temperature 0 is greedy.
struct Sampling {
  double temperature = 1.0;
  int64_t top_k = 0;              // 0: off
  double top_p = 1.0;             // 1: off
  double min_p = 0.0;             // 0: off
  double repeat_penalty = 1.0;    // 1: off
  int64_t repeat_last_n = 64;     // tokens that the penalty looks back on
  double presence_penalty = 0.0;  // 0: off
  double frequency_penalty = 0.0;
  std::vector<std::pair<int32_t, double>> logit_bias;  // token, added to its logit
  uint64_t seed = 0;
};

// The first of the largest logits, or the first that is no number.
int32_t argmax(const float* row, int64_t n_vocab);

struct Candidate {
  float logit;
  int32_t id;
};

class Sampler {
 public:
  // Throws Failure for a value out of range.
  explicit Sampler(Sampling sampling);

  // Whether a row's own argmax is the pick.
  bool greedy() const { return sampling_.temperature == 0.0 && !changes_; }

  // The token at `index` of the answer. row: [n_vocab]; `context` ends with the token before it. Throws Failure for
  // logits that are no numbers.
  int32_t pick(const float* row, int64_t n_vocab, int64_t index, const Tokens& context);

  // How many of the newest tokens the pick at `index` depends on.
  int64_t looks_back(int64_t index) const;

 private:
  const float* adjusted(const float* row, int64_t n_vocab, int64_t index, const Tokens& context);
  void add_bias();
  void penalize_repeats(const Tokens& context);
  void penalize_said(int64_t index, const Tokens& context);
  int32_t pick_of_all(const float* row, int64_t n_vocab, int64_t index, int32_t most_likely) const;
  int32_t pick_of_kept(double top, int64_t index) const;
  void keep_largest(const float* row, int64_t n_vocab);
  void keep_nucleus_of_all(const float* row, int64_t n_vocab, float top);
  void keep_nucleus(int64_t total, float top);
  int64_t total_kept(float top) const;  // weight of the kept ones
  float relative(float logit, float top) const { return (logit - top) * scale_; }
  double scaled(float logit, double top) const { return (double{logit} - top) / sampling_.temperature; }

  Sampling sampling_;
  bool repeats_;
  bool counts_;
  bool changes_;
  double log_min_p_;
  float scale_;                  // 1 over the temperature
  std::vector<float> adjusted_;  // the row with its penalties
  std::vector<Candidate> kept_;  // by truncation, the largest first
  std::vector<int32_t> newest_;  // tokens that a penalty looks at, sorted
};

}  // namespace edgeinfer
