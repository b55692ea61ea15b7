// An exported program, and one conversation on it: the engine of engine/engine.h with its errors as Failure.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/window.h"
#include "protocols.h"
#include "taught.h"

namespace edgeinfer {

// A loaded program and the logits of its newest forward. Only the thread of its model uses it.
class Program {
 public:
  // `packed_cache` is a file for the packed weights; "": they are packed in memory. `ranked`: the tokens among which
  // the program's taught draft chooses; none leaves the draft out.
  Program(const std::string& path, int32_t n_threads, const std::string& packed_cache, ei_kv_type kv_type,
          Tokens ranked);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const ei_info& info() const { return info_; }
  // The drafter of `Cache::draft`: "early-exit", or the kind of the taught draft; "": the program does not draft.
  std::string drafts_with() const;
  // New conversations do without the taught draft, and without early exit.
  void leave_drafts_out() {
    ranked_.clear();
    drafts_ = false;
  }
  // Frees the logits until the next forward.
  void trim();

 private:
  friend class Cache;

  ei_model* model_ = nullptr;
  ei_info info_{};
  Tokens ranked_;            // [draft_n_ranked], or empty
  bool drafts_ = true;       // if it can
  std::vector<float> rows_;  // [n_rows, n_vocab] of the newest verify
  std::vector<float> row_;   // [n_vocab] of the newest draft
};

// The K/V cache of a conversation: edgeinfer/backends/executorch/cache.py. A round counts from its `commit` on. The
// position of a query decides which keys it sees, so keys beyond the length are overwritten before any query sees them.
class Cache {
 public:
  Cache(Program& program, const WindowPolicy& policy);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  const WindowPolicy& policy() const { return policy_; }
  int64_t length() const { return length_; }
  int64_t n_bytes() const;
  int64_t n_vocab() const { return program_.info().n_vocab; }
  // Chunks of a prompt end at multiples of this position.
  int64_t chunk_rows() const { return program_.info().max_tokens; }

  // Removes the positions from `length` on. Throws Failure if keys that the rest needs are evicted.
  void rewind(int64_t length);

  // The logits [n_vocab] after `token` at the next position of the round, by the early layers or the taught draft.
  const float* draft(int32_t token);
  // All layers for `tokens`, at the length and after: logits [n_rows, n_vocab] of the last `n_rows`. The early layers
  // are not run again for tokens that the round drafted.
  const float* verify(const Tokens& tokens, int64_t n_rows);
  // Ends the round: the first `n` of the verified tokens are kept.
  void commit(int64_t n);
  void rollback() { commit(0); }

 private:
  void draft_taught(int32_t token, int64_t position, float* state);
  void run_piece(const Tokens& tokens, int64_t at, int64_t n, int64_t n_rows, bool has_states, float* logits);
  bool add_states(const Tokens& tokens);

  Program& program_;
  WindowPolicy policy_;
  ei_cache* cache_ = nullptr;
  std::unique_ptr<TaughtDrafts> taught_;  // null: the conversation does without
  int64_t length_ = 0;
  Tokens drafted_;             // inputs of the round's drafts
  Tokens verified_;            // with a taught draft: the round's tokens
  std::vector<float> states_;  // [n, hidden] of the round's tokens, after the early layers
  std::vector<float> tapped_;  // [n, draft_n_taps, hidden] of the verified tokens
};

}  // namespace edgeinfer
