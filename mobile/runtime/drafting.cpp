#include "drafting.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <numeric>
#include <utility>

#include "decode/controller.h"
#include "decode/gated.h"
#include "decode/lookup.h"
#include "decode/sampler.h"
#include "error.h"

namespace edgeinfer {
namespace {

constexpr int64_t kMaxRows = 16;         // where the manifest does not say how many rows are exact
constexpr int64_t kJudgedRows = 9;       // as many as a drafted round has
constexpr double kExitAgreement = 0.72;  // edgeinfer/decode/drafters/early_exit.py
constexpr double kWorthCarrying = 1.1;   // a draft takes time in every round; edgeinfer/plan/taught.py

class CacheRounds : public TimedRounds {
 public:
  explicit CacheRounds(Program& program)
      : cache_(program, WindowPolicy{256, 0, 64, std::min<int64_t>(256, program.info().limit)}),
        drafts_(!program.drafts_with().empty()) {}

  bool drafts() const override { return drafts_; }
  void fill(int64_t length) override {
    Tokens tokens;
    for (int64_t index = cache_.length(); index < length; ++index)
      tokens.push_back(static_cast<int32_t>(index * 37 % cache_.n_vocab()));
    cache_.verify(tokens, 1);
    cache_.commit(static_cast<int64_t>(tokens.size()));
  }
  void draft(int32_t token) override {  // as the gate reads it
    const float* row = cache_.draft(token);
    (void)confidence(row, cache_.n_vocab(), argmax(row, cache_.n_vocab()));
  }
  void verify(const std::vector<int32_t>& tokens) override {
    const int64_t n = static_cast<int64_t>(tokens.size());
    const float* rows = cache_.verify(tokens, n);
    for (int64_t row = 0; row < n; ++row) (void)argmax(rows + row * cache_.n_vocab(), cache_.n_vocab());
  }
  void rollback() override { cache_.rollback(); }

 private:
  Cache cache_;
  bool drafts_;
};

// As many drafts as a round may have, however unsure: for tests.
class Chain : public Drafter {
 public:
  explicit Chain(std::string name) : name_(std::move(name)) {}

  const std::string& name() const override { return name_; }
  void reset(const Tokens& context) override { last_ = context.back(); }
  void extend(const Tokens& tokens) override { last_ = tokens.back(); }
  Tokens propose(DraftRound& round, int64_t limit) override {
    Tokens drafts;
    for (int32_t token = last_; static_cast<int64_t>(drafts.size()) < limit; drafts.push_back(token))
      token = round.draft(token).token;
    return drafts;
  }

 private:
  const std::string name_;
  int32_t last_ = 0;
};

// Every round drafts, whatever it costs: for tests.
class Fixed : public Controller {
 public:
  explicit Fixed(Arm arm) : arm_(std::move(arm)) {}

  double plain_s() const override { return 0; }
  Arm choose(int64_t limit) override { return limit > 0 ? Arm{arm_.name, std::min(arm_.depth, limit)} : Arm{}; }
  void observe(const Arm&, const Outcome&) override {}

 private:
  Arm arm_;
};

// The drafts of a taught draft run no layer in the model's own memory, so a verify is a whole one.
DraftSource taught_source(const std::string& name, const std::vector<double>& agreement) {
  DraftSource source{name, Part::verify, Part::verify, true, std::nullopt};
  if (!agreement.empty()) source.agreement = agreement[0];
  return source;
}

void check_mode(const Program& program, DraftMode mode) {
  const bool has_exit = program.info().exit_layer > 0, has_draft = program.info().draft_n_ranked > 0;
  const std::string missing = mode == DraftMode::early_exit && !has_exit ? "exit layer"
                              : mode == DraftMode::taught && !has_draft  ? "taught draft"
                                                                         : "";
  if (!missing.empty())
    fail(kUsageError, "this bundle has no " + missing + " to draft with", "let drafting be automatic");
}

}  // namespace

std::unique_ptr<Costs> measure(Program& program, int64_t exact_rows, DraftMode mode, const CostFile& file) {
  const int64_t max_rows = std::min(exact_rows ? exact_rows : kMaxRows, program.info().max_rows);
  if (max_rows < 2 || mode == DraftMode::never || program.info().limit < 256) return nullptr;
  std::optional<RowCosts> costs = file.load();
  if (!costs) {
    CacheRounds rounds(program);
    costs = calibrate(rounds, max_rows);
    file.save(*costs);
  }
  return std::make_unique<Costs>(*costs, max_rows);
}

std::string why_hopeless(const Costs& costs, const std::string& drafts_with, const std::vector<double>& agreement) {
  const bool is_exit = drafts_with == DraftSource{}.name;
  std::vector<double> rates = is_exit ? std::vector<double>(kMaxDrafts, kExitAgreement) : agreement;
  if (drafts_with.empty() || rates.empty()) return "";
  rates.resize(std::min(rates.size(), static_cast<size_t>(std::min(costs.max_rows(), kJudgedRows) - 1)));
  const Part verify = is_exit ? Part::back_short : Part::verify;
  const double deeper = costs.ratio(Part::exit_draft, kDeeper);
  const double first = is_exit ? costs.ratio(Part::exit_draft, kFirst) : deeper;
  std::vector<int64_t> depths(rates.size());
  std::iota(depths.begin(), depths.end(), 1);
  const auto time = [&](int64_t n) {  // a round without drafts is no answer here
    if (!n) return std::numeric_limits<double>::infinity();
    return first + static_cast<double>(n - 1) * deeper + costs.ratio(verify, n + 1);
  };
  const double best = best_length(rates, time, depths).speedup();
  if (best >= kWorthCarrying) return "";
  char text[64] = "";
  std::snprintf(text, sizeof text, ", at best %.2fx plain speed by the rows measured here", best);
  return drafts_with + text;
}

Drafting new_drafting(const Program& program, Costs* costs, DraftMode mode, const std::vector<double>& agreement) {
  Drafting drafting;
  check_mode(program, mode);
  if (!costs) return drafting;
  const std::string drafts_with = program.drafts_with();
  std::vector<std::unique_ptr<Estimator>> estimators;
  if (mode == DraftMode::automatic || mode == DraftMode::lookup) {
    auto lookup = std::make_unique<Lookup>();
    estimators.push_back(std::make_unique<LookupEstimator>(*lookup, *costs));
    drafting.drafters.push_back(std::move(lookup));
  }
  if (mode == DraftMode::taught) {
    drafting.drafters.push_back(std::make_unique<Chain>(drafts_with));
  } else if (mode != DraftMode::lookup && !drafts_with.empty()) {
    const DraftSource source = program.info().exit_layer ? DraftSource{} : taught_source(drafts_with, agreement);
    auto gated = std::make_unique<Gated>(*costs, program.info().n_vocab, source);
    estimators.push_back(std::make_unique<GatedEstimator>(*gated, *costs));
    drafting.drafters.push_back(std::move(gated));
  }
  if (mode == DraftMode::automatic)
    drafting.controller = std::make_unique<Auto>(std::move(estimators), *costs);
  else
    drafting.controller =
        std::make_unique<Fixed>(Arm{drafting.drafters.front()->name(), std::min(kMaxDrafts, costs->max_rows() - 1)});
  return drafting;
}

}  // namespace edgeinfer
