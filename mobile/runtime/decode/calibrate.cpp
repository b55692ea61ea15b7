#include "calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace edgeinfer {
namespace {

constexpr double kMaxOverrun = 1.4;    // times the budget; then incomplete measurements are enough
constexpr double kQuickRoundS = 0.01;  // the engine's graph building is visible in a plain round faster than this
constexpr double kMaxFillS = 0.25;
// A quick plain round takes longer after rounds of several rows, and is itself again after about eight.
constexpr size_t kSettling = 8, kTimedPlain = 6;
constexpr int64_t kFillStep = 24, kFillMost = 216;
constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 6, 8, 12, 16};
constexpr int64_t kDraftedRowCounts[] = {1, 2, 4, 8};
constexpr int64_t kRowOrder[] = {1, 2, 4, 8, 16, 3, 6, 12};  // a run that is cut short has seen the most useful ones
constexpr double kKeepS = 7 * 24 * 3600.0;
constexpr char kFormat[] = "edgeinfer-costs-3";

// One kind of round: `rows` verified after `drafts` drafts.
struct Trial {
  int64_t rows;
  int64_t drafts;

  // Rounds that are timed alike: with one row or several, without drafts, or with as many fewer drafts than rows.
  std::pair<bool, int64_t> kind() const { return {rows > 1, drafts ? rows - drafts : -1}; }
};

struct Timed {
  Trial trial;
  std::vector<double> seconds;
};

constexpr Trial kPlain{1, 0};

// The `counts` that are allowed, and the largest allowed one, which is not extrapolated.
template <size_t N>
std::set<int64_t> up_to(int64_t max_rows, const int64_t (&counts)[N]) {
  std::set<int64_t> out{std::min(max_rows, counts[N - 1])};
  for (const int64_t count : counts)
    if (count <= max_rows) out.insert(count);
  return out;
}

int64_t order_of(int64_t rows) {
  const auto found = std::find(std::begin(kRowOrder), std::end(kRowOrder), rows);
  return found == std::end(kRowOrder) ? 2 : found - std::begin(kRowOrder);
}

// The most useful first, the plain round before all.
std::vector<Timed> trials_of(int64_t max_rows, bool drafts) {
  std::vector<Trial> trials;
  for (const int64_t rows : up_to(max_rows, kRowCounts))
    if (rows > 1) trials.push_back({rows, 0});
  if (drafts)
    for (const int64_t rows : up_to(max_rows, kDraftedRowCounts))
      for (const int64_t fewer : {0, 1})
        if (rows > fewer) trials.push_back({rows, rows - fewer});
  std::stable_sort(trials.begin(), trials.end(), [](const Trial& a, const Trial& b) {
    return std::make_tuple(order_of(a.rows), a.drafts) < std::make_tuple(order_of(b.rows), b.drafts);
  });
  std::vector<Timed> timed{{kPlain, {}}};
  for (const Trial& trial : trials) timed.push_back({trial, {}});
  return timed;
}

void fill(TimedRounds& rounds, const Clock& clock) {
  const double began = clock();
  for (int64_t length = kFillStep; length <= kFillMost; length += kFillStep) {
    rounds.fill(length);
    if (clock() - began > kMaxFillS) return;
  }
}

// Seconds of drafts: the first of a round, and the deeper ones.
struct DraftTimes {
  std::vector<double> first_s, deeper_s;
};

// Seconds of the verify; those of each draft are added to `drafts`, where it is given.
double time_round(TimedRounds& rounds, const Trial& trial, const Clock& clock, DraftTimes* drafts) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < trial.rows; ++i) tokens.push_back(static_cast<int32_t>(5 + i));
  for (int64_t i = 0; i < trial.drafts; ++i) {
    const double began = clock();
    rounds.draft(tokens[i]);
    if (drafts) (i ? drafts->deeper_s : drafts->first_s).push_back(clock() - began);
  }
  const double began = clock();
  rounds.verify(tokens);
  const double seconds = clock() - began;
  rounds.rollback();
  return seconds;
}

// Seconds of plain rounds after each other. Of slow ones, the second: engines build a graph for the first.
std::vector<double> plain_rounds(TimedRounds& rounds, const Clock& clock) {
  std::vector<double> seconds;
  while (seconds.size() < kSettling + kTimedPlain) {
    seconds.push_back(time_round(rounds, kPlain, clock, nullptr));
    if (seconds.size() == 2 && seconds[1] >= kQuickRoundS) return {seconds[1]};
  }
  return {seconds.begin() + kSettling, seconds.end()};
}

void add(std::vector<double>& to, const std::vector<double>& more) { to.insert(to.end(), more.begin(), more.end()); }

// On a quick model an untimed round goes first, because engines reuse the graph for a number of rows.
void time_trial(TimedRounds& rounds, Timed& timed, bool is_quick, const Clock& clock, DraftTimes& drafts) {
  if (is_quick) time_round(rounds, timed.trial, clock, nullptr);
  const bool is_plain = timed.trial.rows == 1 && !timed.trial.drafts;
  for (int i = 0; i < 1 + is_plain; ++i)  // twice, because all others are relative to it
    timed.seconds.push_back(time_round(rounds, timed.trial, clock, &drafts));
}

// Whether every kind of round was timed with one and with several rows.
bool is_enough(const std::vector<Timed>& trials) {
  std::set<std::pair<bool, int64_t>> all, seen;
  for (const Timed& timed : trials) {
    all.insert(timed.trial.kind());
    if (!timed.seconds.empty()) seen.insert(timed.trial.kind());
  }
  return seen == all;
}

bool is_complete(const std::vector<Timed>& trials) {
  return std::none_of(trials.begin(), trials.end(), [](const Timed& timed) { return timed.seconds.empty(); });
}

double quartile(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 4];
}

RowCosts costs_of(const std::vector<Timed>& trials, const DraftTimes& drafts) {
  RowCosts costs;
  for (const auto& [trial, seconds] : trials) {
    if (seconds.empty()) continue;
    auto& table = !trial.drafts ? costs.verify_s : trial.rows == trial.drafts ? costs.back_s : costs.back_short_s;
    table[trial.rows] = quartile(seconds);
  }
  if (drafts.first_s.empty()) return costs;
  costs.back_short_s.emplace(1, costs.plain_s());
  costs.exit_draft_s = quartile(drafts.deeper_s.empty() ? drafts.first_s : drafts.deeper_s);
  costs.first_draft_s = quartile(drafts.first_s);
  return costs;
}

// Of slow rounds, a plain one before every four others.
std::vector<size_t> in_turn(size_t n_trials, bool is_quick) {
  std::vector<size_t> order;
  for (size_t i = 1; i < n_trials; ++i) {
    if (i % 4 == 1 && !is_quick) order.push_back(0);
    order.push_back(i);
  }
  return order;
}

}  // namespace

RowCosts calibrate(TimedRounds& rounds, int64_t max_rows, double budget_s, const Clock& clock) {
  fill(rounds, clock);
  std::vector<Timed> trials = trials_of(max_rows, rounds.drafts());
  DraftTimes drafts;
  const double began = clock();
  std::vector<double>& plain = trials[0].seconds;
  plain = plain_rounds(rounds, clock);
  const bool is_quick = plain[0] < kQuickRoundS;
  const std::vector<size_t> order = in_turn(trials.size(), is_quick);
  for (;;) {
    for (const size_t index : order) {
      time_trial(rounds, trials[index], is_quick, clock, drafts);
      const double spent = clock() - began;
      if ((spent > budget_s && is_complete(trials)) || (spent > kMaxOverrun * budget_s && is_enough(trials))) {
        if (is_quick) add(plain, plain_rounds(rounds, clock));
        return costs_of(trials, drafts);
      }
    }
  }
}

std::string processor() {
#if defined(__APPLE__)
  char name[64] = "";
  size_t size = sizeof name - 1;
  sysctlbyname("hw.machine", name, &size, nullptr, 0);
  return name;
#else
  std::ifstream file("/proc/cpuinfo");
  std::string line, found;
  for (const char* key : {"model name", "CPU part"}) {
    int64_t n = 0;
    std::set<std::string> values;
    file.clear();
    file.seekg(0);
    while (std::getline(file, line))
      if (line.rfind(key, 0) == 0) {
        values.insert(line.substr(std::min(line.find(':') + 1, line.size())));
        ++n;
      }
    for (const std::string& value : values) found += value;
    if (n) found += " x" + std::to_string(n);
  }
  return found;
#endif
}

std::optional<RowCosts> CostFile::load() const {
  std::ifstream file(path_);
  std::string format, key;
  double measured = 0;
  if (!std::getline(file, format) || format != kFormat || !std::getline(file, key) || key != key_) return std::nullopt;
  const double age = static_cast<double>(std::time(nullptr));
  if (!(file >> measured) || !(0 <= age - measured && age - measured <= kKeepS)) return std::nullopt;
  RowCosts costs;
  const std::map<std::string, std::map<int64_t, double>*> tables{
      {"verify", &costs.verify_s}, {"back", &costs.back_s}, {"back_short", &costs.back_short_s}};
  std::string name;
  int64_t rows = 0;
  double seconds = 0;
  for (int n = 0; n < 100 && file >> name && name != "end"; ++n) {
    if (!(file >> rows >> seconds) || rows < 1 || rows > 64 || !(std::isfinite(seconds) && seconds > 0))
      return std::nullopt;
    if (name == "exit_draft")
      (rows == kFirst ? costs.first_draft_s : costs.exit_draft_s) = seconds;
    else if (const auto table = tables.find(name); table != tables.end())
      (*table->second)[rows] = seconds;
    else
      return std::nullopt;
  }
  const bool drafts = costs.exit_draft_s > 0;
  const bool is_whole = name == "end" && costs.verify_s.count(1) && costs.back_s.empty() != drafts &&
                        costs.back_short_s.empty() != drafts;
  return is_whole ? std::optional(costs) : std::nullopt;
}

void CostFile::save(const RowCosts& costs) const {
  if (path_.empty()) return;
  const std::string unfinished = path_ + ".part";
  {
    std::ofstream file(unfinished);
    file.precision(17);
    file << kFormat << '\n' << key_ << '\n' << std::time(nullptr) << '\n';
    for (const auto& [rows, seconds] : costs.verify_s) file << "verify " << rows << ' ' << seconds << '\n';
    for (const auto& [rows, seconds] : costs.back_s) file << "back " << rows << ' ' << seconds << '\n';
    for (const auto& [rows, seconds] : costs.back_short_s) file << "back_short " << rows << ' ' << seconds << '\n';
    if (costs.first_draft_s > 0) file << "exit_draft " << kFirst << ' ' << costs.first_draft_s << '\n';
    if (costs.exit_draft_s > 0) file << "exit_draft " << kDeeper << ' ' << costs.exit_draft_s << '\n';
    file << "end\n";
    if (!file.flush()) {
      std::remove(unfinished.c_str());
      return;
    }
  }
  if (std::rename(unfinished.c_str(), path_.c_str())) std::remove(unfinished.c_str());
}

}  // namespace edgeinfer
