// The decode loop: the only place that emits tokens. edgeinfer/decode/loop.py, for one conversation.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "cache.h"
#include "decode/sampler.h"
#include "drafting.h"
#include "protocols.h"
#include "stats.h"
#include "timeline.h"

namespace edgeinfer {

// What to answer, and how. `first_index` is the index of the first token in an answer that is continued.
struct AnswerRequest {
  Prompt prompt;
  Sampling sampling;
  int64_t max_tokens = 0;
  std::set<int32_t> stop_tokens;
  int64_t first_index = 0;
};

// One conversation. The next answer is exact, also after a failure or an answer that was not read to its end.
class Decoder {
 public:
  Decoder(Program& program, const WindowPolicy& policy, Drafting drafting);

  bool running() const { return answer_.has_value(); }
  const AnswerStats& stats() const { return stats_; }
  const Cache& cache() const { return cache_; }
  // The conversation so far, including tokens that have left the window.
  const Tokens& tokens() const { return timeline_.tokens; }

  // Begins an answer, and ends the one that is running. Throws Failure for a prompt that does not fit.
  void start(AnswerRequest request);

  // Runs a chunk of the prompt, or a round. Returns the next tokens of the answer, including the stop token: none after
  // a chunk that is not the prompt's last. A failure ends the answer.
  Tokens step();

  // Ends the running answer. Its last `n_unread` tokens were not read, and do not count.
  void stop(int64_t n_unread = 0);

 private:
  struct Answer {
    AnswerRequest request;
    Sampler sampler;
    std::optional<Reuse> entry;  // what to reuse of the cache; empty once that is done
    int64_t gone_before;         // tokens of the conversation that no query saw when the answer began
    double started = 0;
    Tokens waiting{};     // tokens to run before the next one is decoded
    size_t n_run = 0;     // tokens of `waiting` that have run
    int64_t n_again = 0;  // tokens of `waiting` that have yet to run a second time

    bool is_waiting() const { return n_run < waiting.size(); }
    int64_t index(const AnswerStats& stats) const { return request.first_index + stats.emitted; }
  };

  Tokens advance();
  void enter(double began);
  Tokens run_chunk(double began);
  Tokens run_round(double began);
  Tokens propose(const Arm& arm);
  Tokens target(const float* rows, const Tokens& drafts);
  void reanchor();
  int64_t gone() const;
  void finish(Finish reason);

  Cache cache_;
  Drafting drafting_;
  Timeline timeline_;
  AnswerStats stats_;
  std::optional<Answer> answer_;
};

}  // namespace edgeinfer
