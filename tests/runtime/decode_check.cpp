// mobile/runtime/decode with a C interface, for the tests: what Python calls by ctypes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "arithmetic.h"
#include "calibrate.h"
#include "controller.h"
#include "error.h"
#include "gated.h"
#include "lookup.h"
#include "noise.h"
#include "sampler.h"

using namespace edgeinfer;

namespace {

// Drafts that the test prepared: the token and the logits after the n-th draft of the round.
struct PreparedRound : DraftRound {
  const int32_t* tokens;
  const float* rows;
  int64_t n_vocab;
  int64_t at = 0;

  PreparedRound(const int32_t* tokens, const float* rows, int64_t n_vocab)
      : tokens(tokens), rows(rows), n_vocab(n_vocab) {}

  Row draft(int32_t) override {
    const Row row{rows + at * n_vocab, tokens[at]};
    ++at;
    return row;
  }
};

DraftSource source_of(double agreement) {
  return agreement < 0 ? DraftSource{} : DraftSource{"feature", Part::verify, Part::verify, true, agreement};
}

// Everything that one conversation chooses with.
struct Choosing {
  Costs costs;
  Lookup lookup;
  double now_s = 0.0;  // a clock that moves by tick_s whenever it is read
  double tick_s;
  Gated gated;
  std::unique_ptr<Auto> controller;

  Choosing(const RowCosts& prior, int64_t max_rows, int64_t n_vocab, double tick_s, double agreement)
      : costs(prior, max_rows),
        tick_s(tick_s),
        gated(costs, n_vocab, source_of(agreement), [this] { return now_s += this->tick_s; }) {
    std::vector<std::unique_ptr<Estimator>> estimators;
    estimators.push_back(std::make_unique<LookupEstimator>(lookup, costs));
    if (costs.drafts()) estimators.push_back(std::make_unique<GatedEstimator>(gated, costs));
    controller = std::make_unique<Auto>(std::move(estimators), costs);
  }

  Drafter& drafter(bool of_text) { return of_text ? static_cast<Drafter&>(lookup) : gated; }
};

// A device whose rounds take a known time on a clock of its own.
struct SimulatedRounds : TimedRounds {
  double now_s = 0.0;
  double scale;
  bool has_exit;
  int64_t n_drafted = 0, length = 0;

  SimulatedRounds(double scale, bool has_exit) : scale(scale), has_exit(has_exit) {}

  bool drafts() const override { return has_exit; }
  void fill(int64_t to) override { now_s += 0.001 * scale * static_cast<double>(to - length), length = to; }
  void draft(int32_t) override { now_s += (n_drafted ? 0.001 : 0.0015) * scale, ++n_drafted; }
  void verify(const std::vector<int32_t>& tokens) override {
    const double n = static_cast<double>(tokens.size()), drafted = static_cast<double>(n_drafted);
    now_s += scale * (0.004 + 0.0005 * (n - 1) - 0.0001 * drafted);
  }
  void rollback() override { n_drafted = 0; }
};

void write_rows(const std::map<int64_t, double>& from, double* to) {
  for (const auto& [rows, seconds] : from) to[rows - 1] = seconds;
}

void write_costs(const RowCosts& costs, int64_t max_rows, double* out) {
  write_rows(costs.verify_s, out);
  write_rows(costs.back_s, out + max_rows);
  write_rows(costs.back_short_s, out + 2 * max_rows);
  out[3 * max_rows] = costs.exit_draft_s;
  out[3 * max_rows + 1] = costs.first_draft_s;
}

std::map<int64_t, double> by_rows(const double* seconds, int64_t n) {
  std::map<int64_t, double> out;
  for (int64_t rows = 1; rows <= n; ++rows)
    if (seconds[rows - 1] > 0) out[rows] = seconds[rows - 1];
  return out;
}

Tokens tokens_of(const int32_t* tokens, int64_t n) { return Tokens(tokens, tokens + n); }

}  // namespace

extern "C" {

// The cause that a caller sees of a failure whose clean-up fails too, in `message` [200].
void check_clean_up(char* message) {
  try {
    try {
      fail(kEngineError, "the first cause");
    } catch (...) {
      clean_up([] { fail(kEngineError, "the failure of the clean-up"); });
      throw;
    }
  } catch (const Failure& failure) {
    std::snprintf(message, 200, "%s", failure.what());
  }
}

void check_exp(int64_t n, const double* x, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = portable_exp(x[i]);
}

void check_log(int64_t n, const double* x, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = portable_log(x[i]);
}

void check_uniform(uint64_t seed, uint64_t index, int64_t n, const int64_t* tokens, double* out) {
  const Noise noise(seed, index);
  for (int64_t i = 0; i < n; ++i) out[i] = noise.uniform(static_cast<uint64_t>(tokens[i]));
}

// The sampler, or NULL with the reason in `message` [200]. numbers: temperature, top-p, min-p, and the penalties for
// repeats, presence and frequency.
Sampler* check_sampler(const double* numbers, int64_t top_k, int64_t repeat_last_n, uint64_t seed, int64_t n_bias,
                       const int32_t* tokens, const double* biases, char* message) {
  Sampling how;
  how.temperature = numbers[0];
  how.top_p = numbers[1];
  how.min_p = numbers[2];
  how.repeat_penalty = numbers[3];
  how.presence_penalty = numbers[4];
  how.frequency_penalty = numbers[5];
  how.top_k = top_k;
  how.repeat_last_n = repeat_last_n;
  how.seed = seed;
  for (int64_t i = 0; i < n_bias; ++i) how.logit_bias.emplace_back(tokens[i], biases[i]);
  try {
    return new Sampler(how);
  } catch (const Failure& failure) {
    std::snprintf(message, 200, "%s", failure.what());
    return nullptr;
  }
}

void check_sampler_free(Sampler* sampler) { delete sampler; }

// The token, or -1 with the reason in `message` [200].
int64_t check_pick(Sampler* sampler, const float* row, int64_t n_vocab, int64_t index, const int32_t* context,
                   int64_t n_context, char* message) {
  try {
    return sampler->pick(row, n_vocab, index, Tokens(context, context + n_context));
  } catch (const Failure& failure) {
    std::snprintf(message, 200, "%s", failure.what());
    return -1;
  }
}

// verify, back, back_short: seconds [max_rows] of 1, 2 ... rows; 0 where a number was not measured. agreement: of a
// taught draft; below 0 the early exit drafts.
Choosing* check_choosing(const double* verify, const double* back, const double* back_short, double exit_draft_s,
                         double first_draft_s, int64_t max_rows, int64_t n_vocab, double tick_s, double agreement) {
  const RowCosts prior{by_rows(verify, max_rows), by_rows(back, max_rows), by_rows(back_short, max_rows), exit_draft_s,
                       first_draft_s};
  return new Choosing(prior, max_rows, n_vocab, tick_s, agreement);
}

void check_choosing_free(Choosing* choosing) { delete choosing; }

void check_reset(Choosing* choosing, const int32_t* context, int64_t n) {
  choosing->lookup.reset(tokens_of(context, n));
  choosing->gated.reset(tokens_of(context, n));
}

void check_extend(Choosing* choosing, const int32_t* tokens, int64_t n) {
  choosing->lookup.extend(tokens_of(tokens, n));
  choosing->gated.extend(tokens_of(tokens, n));
}

// The depth of the next round; its sign says with what: positive for lookup, negative for the early exit or the taught
// draft.
int64_t check_choose(Choosing* choosing, int64_t limit) {
  const Arm arm = choosing->controller->choose(limit);
  return arm.name == choosing->gated.name() ? -arm.depth : arm.depth;
}

// Writes the drafts to `out` and returns how many.
int64_t check_propose(Choosing* choosing, int32_t of_text, int64_t limit, const int32_t* tokens, const float* rows,
                      int64_t n_vocab, int32_t* out) {
  PreparedRound round(tokens, rows, n_vocab);
  const Tokens drafts = choosing->drafter(of_text).propose(round, limit);
  std::copy(drafts.begin(), drafts.end(), out);
  return static_cast<int64_t>(drafts.size());
}

void check_observe(Choosing* choosing, int64_t depth, int64_t drafted, int64_t accepted, int64_t emitted,
                   double draft_s, double verify_s) {
  const std::string name = depth > 0 ? choosing->lookup.name() : depth < 0 ? choosing->gated.name() : "none";
  choosing->controller->observe({name, std::abs(depth)}, {drafted, accepted, emitted, draft_s, verify_s});
}

double check_unit_s(Choosing* choosing) { return choosing->controller->plain_s(); }

// The acceptance rates of the next `limit` tokens of the text; returns how many.
int64_t check_acceptance(Choosing* choosing, int64_t limit, double* out) {
  const auto match = choosing->lookup.match();
  if (!match) return 0;
  const auto rates = choosing->lookup.acceptance(*match, limit);
  std::copy(rates.begin(), rates.end(), out);
  return static_cast<int64_t>(rates.size());
}

// out: verify, back, back_short [max_rows] each, then the draft; 0 where not timed. Returns the time that it took.
double check_calibrate(double scale, int32_t has_exit, int64_t max_rows, double* out) {
  SimulatedRounds rounds(scale, has_exit);
  write_costs(calibrate(rounds, max_rows, 0.5, [&] { return rounds.now_s; }), max_rows, out);
  return rounds.now_s;
}

void check_save_costs(const char* path, const char* key, double scale, int32_t has_exit, int64_t max_rows) {
  SimulatedRounds rounds(scale, has_exit);
  CostFile(path, key).save(calibrate(rounds, max_rows, 0.5, [&] { return rounds.now_s; }));
}

int32_t check_load_costs(const char* path, const char* key, int64_t max_rows, double* out) {
  const auto costs = CostFile(path, key).load();
  if (costs) write_costs(*costs, max_rows, out);
  return costs.has_value();
}

int64_t check_processor(char* out, int64_t size) { return std::snprintf(out, size, "%s", processor().c_str()); }

double check_confidence(const float* row, int64_t n_vocab, int32_t token) { return confidence(row, n_vocab, token); }

}  // extern "C"
