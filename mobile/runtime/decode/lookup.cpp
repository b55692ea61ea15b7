#include "lookup.h"

#include <algorithm>

namespace edgeinfer {
namespace {

constexpr int64_t kMaxIndexed = 16384;  // tokens; when there are more, only the newest half of these is kept

}  // namespace

void Lookup::reset(const Tokens& context) {
  emitted_.clear();
  const Tokens& known = text_.tokens();
  const int64_t size = static_cast<int64_t>(context.size()), n_known = static_cast<int64_t>(known.size());
  const int64_t begin = std::min(first_, size), end = std::min(first_ + n_known, size);
  const int64_t n_overlap = end - begin;
  const int64_t n_same =
      std::mismatch(known.begin(), known.begin() + n_overlap, context.begin() + begin).first - known.begin();
  const bool continues = n_same == n_known;
  if (continues && size - first_ <= kMaxIndexed) {
    add(context.begin() + end, context.end());
    return;
  }
  if (!continues && n_same < n_known / 2) rates_.begin_conversation();  // a smaller difference is an edit
  index(context, 0);
}

void Lookup::extend(const Tokens& tokens) { emitted_.insert(emitted_.end(), tokens.begin(), tokens.end()); }

Tokens Lookup::propose(DraftRound&, int64_t limit) {
  const std::optional<Match> found = match();
  return found && limit > 0 ? tokens(*found, limit) : Tokens{};
}

std::optional<Match> Lookup::match() {
  for (const int32_t token : emitted_) learn(token);
  emitted_.clear();
  if (static_cast<int64_t>(text_.tokens().size()) > kMaxIndexed) index(text_.tokens(), first_);
  return match_;
}

std::vector<double> Lookup::acceptance(const Match& match, int64_t limit) const {
  return rates_.acceptance(match.length, text_.forks_after(match, limit));
}

// Starts a new index with `tokens`, or with the newest of them. `first` is the conversation's index of the first one.
void Lookup::index(Tokens tokens, int64_t first) {
  const int64_t size = static_cast<int64_t>(tokens.size());
  const int64_t skipped = size > kMaxIndexed ? size - kMaxIndexed / 2 : 0;
  first_ = first + skipped;
  text_ = TextIndex();
  add(tokens.begin() + skipped, tokens.end());
}

template <class Iterator>
void Lookup::add(Iterator first, Iterator last) {
  for (; first != last; ++first) text_.add(*first);
  match_ = text_.longest_match();
}

void Lookup::learn(int32_t token) {
  bool hit = false;
  if (match_) {
    hit = text_.tokens()[match_->source] == token;
    rates_.learn(match_->length, text_.fork_at(*match_), hit);
  }
  text_.add(token);
  if (hit)  // the longest match continues; no other can have become longer
    match_ = Match{match_->source + 1, std::min(match_->length + 1, kLongestMatch)};
  else
    match_ = text_.longest_match();
}

LookupEstimator::LookupEstimator(Lookup& lookup, Costs& costs)
    : lookup_(lookup), costs_(costs), lengths_{1, 3, 5, 7, 11, 15, costs.max_rows() - 1} {}

std::optional<Offer> LookupEstimator::offer(int64_t limit) {
  const std::optional<Match> match = lookup_.match();
  if (!match || limit < 1) return std::nullopt;
  const std::vector<double> acceptance = lookup_.acceptance(*match, limit);
  Offer best = best_length(acceptance, [&](int64_t n) { return time(n); }, lengths_);
  if (!best.arm.depth && !costs_.is_known(Part::verify, 2))  // the stored time may be wrong: a trial will show it
    best = {{"", 1}, 1.0 + acceptance[0], time(1)};
  if (!best.arm.depth) return std::nullopt;
  best.arm.name = name();
  return best;
}

void LookupEstimator::observe(const Outcome& outcome) {
  costs_.observe(Part::verify, outcome.drafted + 1, outcome.seconds());
}

double LookupEstimator::time(int64_t n) const { return n ? costs_.ratio(Part::verify, n + 1) * kOverestimate : 1.0; }

}  // namespace edgeinfer
