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

// What an answer is made of. `first_index` is the index in the answer of the first token, for one that is continued.
struct AnswerRequest {
  Prompt prompt;
  Sampling sampling;
  int64_t max_tokens = 0;
  std::set<int32_t> stop_tokens;
  int64_t first_index = 0;
};

// One conversation. After a failure, and after a reader who walks away, the next answer is exact.
class Decoder {
 public:
  Decoder(Program& program, const WindowPolicy& policy, Drafting drafting);

  bool running() const { return answer_.has_value(); }
  const AnswerStats& stats() const { return stats_; }
  const Cache& cache() const { return cache_; }
  // The conversation so far, those that have left the window included.
  const Tokens& tokens() const { return timeline_.tokens; }

  // Begins an answer. An answer that is still running ends. Throws Failure for a prompt that does not fit.
  void start(AnswerRequest request);

  // Runs a chunk of the prompt, or a round. The answer's next tokens, the stop token included: none after a chunk that
  // is not the prompt's last. A failure ends the answer.
  Tokens step();

  // Ends the running answer, whose last `n_unread` tokens nobody read.
  void stop(int64_t n_unread = 0);

 private:
  struct Answer {
    AnswerRequest request;
    Sampler sampler;
    std::optional<Reuse> entry;  // how the prompt meets the cache; nothing once it has
    int64_t gone_before;         // tokens of the conversation that were out of sight when it began
    double started = 0;
    Tokens waiting{};     // tokens to run before the next one is decoded
    size_t n_run = 0;     // of them
    int64_t n_again = 0;  // tokens of `waiting` still to run that were run before

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
