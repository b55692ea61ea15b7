// What a round, a drafter and a controller are for the decode loop: edgeinfer/protocols.py and decode/policy/arms.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgeinfer {

using Tokens = std::vector<int32_t>;

// The number of equal tokens at the front of both.
inline int64_t common_prefix(const Tokens& left, const Tokens& right) {
  size_t at = 0;
  while (at < left.size() && at < right.size() && left[at] == right[at]) ++at;
  return static_cast<int64_t>(at);
}

// Token ids of a rendered conversation. `n_system` tokens at the front are the system prompt (kept as sinks); `starts`
// are where messages begin, so that re-anchoring can cut there.
struct Prompt {
  Tokens tokens;
  int64_t n_system = 0;
  std::vector<int64_t> starts;
};

// One row of logits, valid until the next draft or verify of its cache. `token` is what the row emits: its argmax, or
// the sample that the answer's noise draws from it.
struct Row {
  const float* logits;  // [n_vocab]
  int32_t token;
};

// What a drafter may do in a round.
class DraftRound {
 public:
  virtual ~DraftRound() = default;

  // The row after `token` at the next position, by the model's early layers or a taught draft.
  virtual Row draft(int32_t token) = 0;
};

// Guesses the next tokens of one conversation.
class Drafter {
 public:
  virtual ~Drafter() = default;

  virtual const std::string& name() const = 0;
  // An answer begins: `context` is the whole conversation, with the first token of the answer.
  virtual void reset(const Tokens& context) = 0;
  // The round emitted `tokens` (one or more), whichever drafter served it. The last one is not yet in the cache.
  virtual void extend(const Tokens& tokens) = 0;
  // At most `limit` guesses for what follows.
  virtual Tokens propose(DraftRound& round, int64_t limit) = 0;
};

// What a round may do: a drafter at a depth.
struct Arm {
  std::string name = "none";  // or the name of a drafter
  int64_t depth = 0;          // most drafts of the round; 0 for "none"
};

// What one round did. `drafted` may be less than the arm's depth.
struct Outcome {
  int64_t drafted;
  int64_t accepted;
  int64_t emitted;
  double draft_s;
  double verify_s;

  double seconds() const { return draft_s + verify_s; }
};

class Controller {
 public:
  virtual ~Controller() = default;

  // Measured seconds of a plain round now; 0 if none was measured.
  virtual double plain_s() const = 0;
  // The arm of the next round, of depth <= `limit`.
  virtual Arm choose(int64_t limit) = 0;
  // Learn from a round, after its drafter was given the emitted tokens.
  virtual void observe(const Arm& arm, const Outcome& outcome) = 0;
};

}  // namespace edgeinfer
