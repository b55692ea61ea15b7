#include "drafting.h"

#include <algorithm>
#include <utility>

#include "decode/controller.h"
#include "decode/gated.h"
#include "decode/lookup.h"
#include "decode/sampler.h"
#include "error.h"

namespace edgeinfer {
namespace {

constexpr int64_t kMaxRows = 16;  // where the manifest does not say how many rows are exact

class CacheRounds : public TimedRounds {
 public:
  explicit CacheRounds(Program& program)
      : cache_(program, WindowPolicy{256, 0, 64, std::min<int64_t>(256, program.info().limit)}),
        drafts_(program.info().exit_layer > 0) {}

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

Drafting new_drafting(const Program& program, Costs* costs, DraftMode mode) {
  Drafting drafting;
  const bool has_exit = program.info().exit_layer > 0;
  if (mode == DraftMode::early_exit && !has_exit)
    fail(kUsageError, "this bundle has no exit layer to draft with", "let drafting be automatic");
  if (!costs) return drafting;
  std::vector<std::unique_ptr<Estimator>> estimators;
  if (mode != DraftMode::early_exit) {
    auto lookup = std::make_unique<Lookup>();
    estimators.push_back(std::make_unique<LookupEstimator>(*lookup, *costs));
    drafting.drafters.push_back(std::move(lookup));
  }
  if (mode != DraftMode::lookup && has_exit) {
    auto gated = std::make_unique<Gated>(*costs, program.info().n_vocab);
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
