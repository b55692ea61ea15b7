#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "../error.h"
#include "arithmetic.h"
#include "noise.h"

namespace edgeinfer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kWeightOne = 0x1p40;     // weights are whole numbers: their sum is exact in any order
constexpr float kLeastRelative = -28.0f;  // below it a weight is 0
constexpr float kNucleusStart = 7.0f, kNucleusStep = 3.0f;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void check_range(const char* name, double value, double low, double high) {
  if (!(low <= value && value <= high))
    fail(kUsageError,
         std::string(name) + " must be from " + number(low) + " to " + number(high) + "; received " + number(value));
}

void check(const Sampling& how) {
  if (0.0 < how.temperature && how.temperature < 1e-3)
    fail(kUsageError, "temperature must be 0 (greedy) or at least 0.001; received " + number(how.temperature));
  check_range("temperature", how.temperature, 0.0, 100.0);
  check_range("top-k", static_cast<double>(how.top_k), 0.0, kInfinity);
  check_range("top-p", how.top_p, 1e-6, 1.0);
  check_range("min-p", how.min_p, 0.0, 1.0);
  check_range("repeat-penalty", how.repeat_penalty, 1e-3, 1e3);
  check_range("repeat-last-n", static_cast<double>(how.repeat_last_n), 0.0, kInfinity);
  check_range("presence-penalty", how.presence_penalty, -2.0, 2.0);
  check_range("frequency-penalty", how.frequency_penalty, -2.0, 2.0);
}

// Unnormalized probability: kWeightOne for the top token.
int64_t weight(float relative) {
  return relative < kLeastRelative ? 0 : static_cast<int64_t>(portable_exp(double{relative}) * kWeightOne);
}

bool is_larger(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The newest `n` tokens, sorted.
void sort_newest(const Tokens& context, int64_t n, std::vector<int32_t>& out) {
  const int64_t size = static_cast<int64_t>(context.size());
  out.assign(context.end() - std::min(n, size), context.end());
  std::sort(out.begin(), out.end());
}

}  // namespace

int32_t argmax(const float* row, int64_t n_vocab) {
  int64_t best = 0;
  for (int64_t id = 0; id < n_vocab; ++id) {
    if (std::isnan(row[id])) return static_cast<int32_t>(id);
    if (row[id] > row[best]) best = id;
  }
  return static_cast<int32_t>(best);
}

Sampler::Sampler(Sampling sampling) : sampling_(std::move(sampling)) {
  check(sampling_);
  repeats_ = sampling_.repeat_penalty != 1.0 && sampling_.repeat_last_n > 0;
  counts_ = sampling_.presence_penalty != 0.0 || sampling_.frequency_penalty != 0.0;
  changes_ = repeats_ || counts_ || !sampling_.logit_bias.empty();
  log_min_p_ = sampling_.min_p > 0.0 ? portable_log(sampling_.min_p) : -kInfinity;
  scale_ = sampling_.temperature > 0.0 ? static_cast<float>(1.0 / sampling_.temperature) : 1.0f;
}

int64_t Sampler::looks_back(int64_t index) const {
  return std::max<int64_t>(repeats_ ? sampling_.repeat_last_n : 0, counts_ ? index : 0);
}

int32_t Sampler::pick(const float* row, int64_t n_vocab, int64_t index, const Tokens& context) {
  row = adjusted(row, n_vocab, index, context);
  const int32_t most_likely = argmax(row, n_vocab);
  if (sampling_.temperature == 0.0) return most_likely;
  const float top = row[most_likely];
  if (!std::isfinite(top))
    fail(kEngineError,
         "the engine gave logits that cannot be sampled: the largest is " + (std::isnan(top) ? "nan" : number(top)));
  const bool cuts = sampling_.top_k > 0 && sampling_.top_k < n_vocab;
  if (!cuts && sampling_.top_p >= 1.0) return pick_of_all(row, n_vocab, index, most_likely);
  if (!cuts) {
    keep_nucleus_of_all(row, n_vocab, top);
  } else {
    keep_largest(row, n_vocab);
    if (sampling_.top_p < 1.0) keep_nucleus(total_kept(top), top);
  }
  return pick_of_kept(double{top}, index);
}

const float* Sampler::adjusted(const float* row, int64_t n_vocab, int64_t index, const Tokens& context) {
  if (!changes_) return row;
  adjusted_.assign(row, row + n_vocab);
  add_bias();
  if (repeats_) penalize_repeats(context);
  if (counts_ && index > 0) penalize_said(index, context);
  return adjusted_.data();
}

void Sampler::add_bias() {
  const int64_t n_vocab = static_cast<int64_t>(adjusted_.size());
  for (const auto& [token, bias] : sampling_.logit_bias) {
    if (token < 0 || token >= n_vocab)
      fail(kUsageError,
           "logit-bias names token " + std::to_string(token) + "; the vocabulary has " + std::to_string(n_vocab));
    adjusted_[token] += static_cast<float>(bias);
  }
}

// CTRL's penalty (arXiv 1909.05858), once for a token.
void Sampler::penalize_repeats(const Tokens& context) {
  const float penalty = static_cast<float>(sampling_.repeat_penalty);
  sort_newest(context, sampling_.repeat_last_n, newest_);
  newest_.erase(std::unique(newest_.begin(), newest_.end()), newest_.end());
  for (const int32_t token : newest_) {
    float& logit = adjusted_[token];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// OpenAI's presence and frequency penalties.
void Sampler::penalize_said(int64_t index, const Tokens& context) {
  sort_newest(context, index, newest_);
  for (auto first = newest_.begin(); first != newest_.end();) {
    const auto last = std::upper_bound(first, newest_.end(), *first);
    const double times = static_cast<double>(last - first);
    adjusted_[*first] -= static_cast<float>(sampling_.presence_penalty + sampling_.frequency_penalty * times);
    first = last;
  }
}

// The noise of most tokens cannot lift them to the best so far: -log(u) >= 1 - u bounds it, without a logarithm.
int32_t Sampler::pick_of_all(const float* row, int64_t n_vocab, int64_t index, int32_t most_likely) const {
  const Noise noise(sampling_.seed, static_cast<uint64_t>(index));
  const double top = row[most_likely], inverse = 1.0 / sampling_.temperature;
  const double least = std::max(-kSpan, log_min_p_) - 0.01;  // loose: decided below
  constexpr int kClasses = static_cast<int>(kSpan) + 2;
  double most_missing[kClasses];  // 1 - u of a token that could still win, by the whole part of its distance to the top
  double best = noise.gumbel(static_cast<uint64_t>(most_likely));
  const auto update = [&] {
    for (int i = 0; i < kClasses; ++i) most_missing[i] = 1.01 * portable_exp(-i - best);
  };
  update();
  int32_t winner = most_likely;
  for (int64_t id = 0; id < n_vocab; ++id) {
    const double distance = (top - double{row[id]}) * inverse;
    if (!(distance <= -least)) continue;
    const double missing = 1.0 - noise.uniform(static_cast<uint64_t>(id));
    if (missing > most_missing[static_cast<int>(distance * (1 - 1e-9))] || id == most_likely) continue;
    const double exact = scaled(row[id], top);
    if (exact < log_min_p_) continue;
    const double value = exact + noise.gumbel(static_cast<uint64_t>(id));
    if (value > best || (value == best && id < winner)) {
      best = value;
      winner = static_cast<int32_t>(id);
      update();
    }
  }
  return winner;
}

int32_t Sampler::pick_of_kept(double top, int64_t index) const {
  const Noise noise(sampling_.seed, static_cast<uint64_t>(index));
  int32_t winner = kept_.front().id;
  double best = -kInfinity;
  for (const Candidate& candidate : kept_) {
    const double exact = scaled(candidate.logit, top);
    if (exact < log_min_p_ || exact < -kSpan) continue;
    const double value = exact + noise.gumbel(static_cast<uint64_t>(candidate.id));
    if (value > best) {
      best = value;
      winner = candidate.id;
    }
  }
  return winner;
}

// The top-k logits, largest first, ties by the lower id. The heap's front is the smallest of them.
void Sampler::keep_largest(const float* row, int64_t n_vocab) {
  const size_t k = static_cast<size_t>(sampling_.top_k);
  kept_.clear();
  for (int64_t id = 0; id < n_vocab; ++id) {
    if (kept_.size() == k) {
      if (!(row[id] > kept_.front().logit)) continue;
      std::pop_heap(kept_.begin(), kept_.end(), is_larger);
      kept_.pop_back();
    }
    kept_.push_back({row[id], static_cast<int32_t>(id)});
    std::push_heap(kept_.begin(), kept_.end(), is_larger);
  }
  std::sort(kept_.begin(), kept_.end(), is_larger);
}

int64_t Sampler::total_kept(float top) const {
  int64_t total = 0;
  for (const Candidate& candidate : kept_) total += weight(relative(candidate.logit, top));
  return total;
}

void Sampler::keep_nucleus_of_all(const float* row, int64_t n_vocab, float top) {
  int64_t total = 0;
  for (int64_t id = 0; id < n_vocab; ++id) total += weight(relative(row[id], top));
  const double wanted = sampling_.top_p * static_cast<double>(total);
  for (float depth = kNucleusStart;; depth += kNucleusStep) {
    kept_.clear();
    for (int64_t id = 0; id < n_vocab; ++id)
      if (relative(row[id], top) >= -depth) kept_.push_back({row[id], static_cast<int32_t>(id)});
    if (static_cast<double>(total_kept(top)) >= wanted) break;
  }
  std::sort(kept_.begin(), kept_.end(), is_larger);
  keep_nucleus(total, top);
}

// The first of kept_ that hold top-p of `total` (arXiv 1904.09751).
void Sampler::keep_nucleus(int64_t total, float top) {
  const double wanted = sampling_.top_p * static_cast<double>(total);
  int64_t reached = 0;
  size_t n = 0;
  while (n < kept_.size()) {
    reached += weight(relative(kept_[n++].logit, top));
    if (static_cast<double>(reached) >= wanted) break;
  }
  kept_.resize(n);
}

}  // namespace edgeinfer
