#include "costs.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace edgeinfer {
namespace {

constexpr double kMaxSurprise = 0.25;
constexpr double kUnitRate = 0.1;
constexpr double kDriftRate = 0.15;
constexpr double kMinRatioRate = 0.04;
constexpr int64_t kFirstRounds = 4;
constexpr double kPlainMemory = 64.0;  // plain rounds

double clip(double surprise) { return std::clamp(surprise, -kMaxSurprise, kMaxSurprise); }

}  // namespace

double interpolate(const std::map<int64_t, double>& points, int64_t rows) {
  if (const auto found = points.find(rows); found != points.end()) return found->second;
  const auto first = points.begin(), last = std::prev(points.end());
  if (points.size() == 1) return first->second * static_cast<double>(rows) / static_cast<double>(first->first);
  auto upper = points.upper_bound(rows);
  if (upper == points.end()) upper = last;
  if (upper == first) ++upper;
  const auto slope_between = [](auto a, auto b) {
    return (b->second - a->second) / static_cast<double>(b->first - a->first);
  };
  auto a = std::prev(upper);
  double slope = slope_between(a, upper);
  if (rows > last->first) {
    slope = std::max(slope, slope_between(first, last));
    a = upper;
  }
  return a->second + slope * static_cast<double>(rows - a->first);
}

Costs::Costs(const RowCosts& prior, int64_t max_rows) : unit_s_(prior.plain_s()), max_rows_(max_rows) {
  for (auto& part : cells_) part.resize(static_cast<size_t>(max_rows) + 1);
  for (int64_t rows = 1; rows <= max_rows; ++rows) {
    cell(Part::verify, rows).ratio = interpolate(prior.verify_s, rows) / unit_s_;
    if (prior.back_s.empty()) continue;
    cell(Part::back, rows).ratio = interpolate(prior.back_s, rows) / unit_s_;
    cell(Part::back_short, rows).ratio = interpolate(prior.back_short_s, rows) / unit_s_;
  }
  const double first_draft_s = prior.first_draft_s > 0.0 ? prior.first_draft_s : prior.exit_draft_s;
  cell(Part::exit_draft, kFirst).ratio = first_draft_s / unit_s_;
  cell(Part::exit_draft, kDeeper).ratio = prior.exit_draft_s / unit_s_;
}

bool Costs::is_known(Part part, int64_t rows) const { return cell(part, rows).seen >= kFirstRounds; }

void Costs::observe(Part part, int64_t rows, double seconds) {
  if (rows == 1 && part == Part::verify) {
    observe_plain(seconds);
    return;
  }
  Cell& measured = cell(part, rows);
  if (measured.ratio <= 0.0) {
    measured.ratio = seconds / unit_s_;
    return;
  }
  ++measured.seen;
  if (measured.seen == 1) return;  // the engine builds a graph for this number of rows; later rounds reuse it
  const double surprise = seconds / (unit_s_ * measured.ratio) - 1.0;
  const double share = 1.0 / static_cast<double>(measured.seen + 1);
  double step = std::max(share, kMinRatioRate) * clip(surprise);
  if (measured.seen <= kFirstRounds) step = std::clamp(surprise, -0.5, 1.0) / static_cast<double>(measured.seen + 1);
  correct_unseen(part, step / 2);
  measured.ratio *= 1.0 + step;
  drift_ += kDriftRate * (clip(surprise) - drift_);
}

// An error at one number of rows is likely at the numbers that were not seen yet.
void Costs::correct_unseen(Part part, double step) {
  for (int64_t rows = 2; rows <= max_rows_; ++rows)
    if (Cell& other = cell(part, rows); !other.seen) other.ratio *= 1.0 + step;
}

void Costs::observe_plain(double seconds) {
  ++n_plain_;
  const double mean_rate = 1.0 / std::min(static_cast<double>(n_plain_ + kFirstRounds), kPlainMemory);
  plain_mean_ += mean_rate * (std::min(seconds / unit_s_, kMaxRound) - plain_mean_);
  if (n_plain_ <= kFirstRounds) {
    unit_s_ += (seconds - unit_s_) / static_cast<double>(n_plain_ + 1);
  } else {
    const double rate = kUnitRate + std::min(std::fabs(drift_), kMaxSurprise);
    unit_s_ *= 1.0 + rate * clip(seconds / unit_s_ - 1.0);
  }
  drift_ *= 0.5;
}

}  // namespace edgeinfer
