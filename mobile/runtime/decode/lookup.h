// Prompt lookup: drafts what followed the longest earlier occurrence of the newest tokens, which costs no model run.
// edgeinfer/decode/drafters/lookup.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "costs.h"
#include "hit_rates.h"
#include "offers.h"
#include "text_index.h"

namespace edgeinfer {

class Lookup : public Drafter {
 public:
  const std::string& name() const override { return name_; }
  // Indexes `context`. Its tokens do not change the rates, because the model did not just emit them.
  void reset(const Tokens& context) override;
  void extend(const Tokens& tokens) override;
  Tokens propose(DraftRound& round, int64_t limit) override;

  // The longest earlier occurrence of the newest tokens.
  std::optional<Match> match();
  // Acceptance rate of each of the next `limit` tokens at `match`, given that those before it are accepted.
  std::vector<double> acceptance(const Match& match, int64_t limit) const;
  Tokens tokens(const Match& match, int64_t limit) const { return text_.after(match, limit); }

 private:
  void index(Tokens tokens, int64_t first);
  template <class Iterator>
  void add(Iterator first, Iterator last);
  void learn(int32_t token);

  const std::string name_ = "lookup";
  HitRates rates_;
  TextIndex text_;
  int64_t first_ = 0;  // index in the conversation of the first token in text_
  Tokens emitted_;     // not yet in text_
  std::optional<Match> match_;
};

// Lookup knows its drafts before the round, so it offers for these tokens.
class LookupEstimator : public Estimator {
 public:
  LookupEstimator(Lookup& lookup, Costs& costs);

  const std::string& name() const override { return lookup_.name(); }
  std::optional<Offer> offer(int64_t limit) override;
  void observe(const Outcome& outcome) override;

 private:
  double time(int64_t n) const;

  Lookup& lookup_;
  Costs& costs_;
  std::vector<int64_t> lengths_;
};

}  // namespace edgeinfer
