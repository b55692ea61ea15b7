// How long the parts of a round take on this device, and what a drafter offers in return:
// edgeinfer/decode/policy/costs.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace edgeinfer {

// verify: rows through all layers. back: rows through the late layers, after drafts ran the early ones for all of them;
// back_short: the same, after drafts ran them for all rows but the newest. exit_draft: one draft, by the early
// layers or a taught draft, with kFirst or kDeeper in place of the number of rows.
enum class Part { verify, back, back_short, exit_draft };

constexpr int64_t kFirst = 1;  // the first draft of a round: its weights have left the processor's caches
constexpr int64_t kDeeper = 2;

// Times the unit or what is expected: a round that takes longer counts as no longer.
constexpr double kMaxRound = 8.0;

// Seconds by the number of rows, measured before any answer.
struct RowCosts {
  std::map<int64_t, double> verify_s;      // 1 is a plain round
  std::map<int64_t, double> back_s;        // after as many drafts as rows
  std::map<int64_t, double> back_short_s;  // after one draft fewer
  double exit_draft_s = 0.0;               // 0: the program does not draft
  double first_draft_s = 0.0;              // the first draft of a round; 0: as long as a deeper one

  double plain_s() const { return verify_s.at(1); }
};

// Seconds of `rows` rows: linear between measured counts; beyond the largest, the steeper of the last and the overall
// slope.
double interpolate(const std::map<int64_t, double>& points, int64_t rows);

// Times of the parts of a round, in plain rounds. Shared by the conversations of a model. Only a plain round moves the
// unit; `drift` is how far the other rounds have recently been from their estimates.
class Costs {
 public:
  Costs(const RowCosts& prior, int64_t max_rows);

  double unit_s() const { return unit_s_; }
  double drift() const { return drift_; }
  // Mean of a plain round in units, outliers included; the unit is near the median.
  double plain_mean() const { return plain_mean_; }
  int64_t max_rows() const { return max_rows_; }
  bool drafts() const { return cell(Part::exit_draft, 1).ratio > 0.0; }
  // Plain rounds that this part takes.
  double ratio(Part part, int64_t rows = 1) const { return cell(part, rows).ratio; }
  // Whether rounds have confirmed or corrected the stored time of this part.
  bool is_known(Part part, int64_t rows) const;
  // One measured part of a round. It moves its own ratio; a verify of one row moves the unit.
  void observe(Part part, int64_t rows, double seconds);
  void observe_plain(double seconds);

 private:
  struct Cell {
    double ratio = 0.0;  // 0: not known
    int64_t seen = 0;    // rounds
  };

  Cell& cell(Part part, int64_t rows) {
    return cells_[static_cast<std::size_t>(part)].at(static_cast<std::size_t>(rows));
  }
  const Cell& cell(Part part, int64_t rows) const { return const_cast<Costs*>(this)->cell(part, rows); }
  void correct_unseen(Part part, double step);

  double unit_s_;
  double drift_ = 0.0;
  double plain_mean_ = 1.0;
  int64_t max_rows_;
  int64_t n_plain_ = 0;
  std::array<std::vector<Cell>, 4> cells_;  // by part, then by rows
};

}  // namespace edgeinfer
