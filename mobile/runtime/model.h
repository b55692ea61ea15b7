// An open bundle: its program, and the thread on which all of its sessions run.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "answer.h"
#include "cache.h"
#include "drafting.h"
#include "engine/window.h"
#include "loop.h"
#include "packed_weights.h"
#include "text/encoding.h"
#include "text/manifest.h"
#include "text/tokenizer.h"
#include "worker.h"

namespace edgeinfer {

class Session;

struct ModelOptions {
  int32_t n_threads = 0;   // 0: one per performance core
  int64_t context = 0;     // K/V positions of a session, sink + window; 0: the default
  int64_t sink = -1;       // positions kept for the system prompt; -1: the default
  int32_t n_sessions = 1;  // open at the same time, at most
  DraftMode drafting = DraftMode::automatic;
  std::string cache_folder;  // for packed weights and measured costs; "": neither is kept
};

class Model {
 public:
  Model(const std::string& folder, const ModelOptions& options);
  ~Model() { close(); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  Worker& worker() { return worker_; }
  const Manifest& manifest() const { return manifest_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ei_info& info() const { return info_; }
  // What could not be done, as a sentence; "" if nothing failed.
  std::string note() const;
  // The kind of the taught draft that sessions use; "": none.
  const std::string& draft() const { return draft_; }
  const WindowPolicy& policy() const { return policy_; }
  bool is_closing() const { return closing_; }

  // How an answer is read that may reason in one of `traces`; the prompt has begun the one in `inside`.
  AnswerText text_of_answer(const std::vector<TraceFormat>& traces, const std::optional<TraceFormat>& inside) const;

  // A decoder for a new session. Throws Failure when `n_sessions` are open already.
  std::unique_ptr<Decoder> add(Session& session);
  void remove(Session& session);

  void trim();
  // Cancels running answers, waits for their end, and frees the program. Safe to call twice.
  void close();

 private:
  void load();
  std::vector<double> agreement() const;  // of a taught draft, by depth

  const ModelOptions options_;
  const Manifest manifest_;
  const WindowPolicy policy_;
  const Tokenizer tokenizer_;
  const Encoder encoder_;  // for text that the runtime itself adds to an answer
  const PackedWeights packed_weights_;
  std::unique_ptr<Program> program_;
  std::unique_ptr<Costs> costs_;  // null if every round is plain
  std::string draft_;
  std::string draft_left_out_;  // which, and why; "" if the taught draft or early exit is used, or not wanted
  ei_info info_{};
  std::mutex mutex_;
  std::set<Session*> sessions_;
  std::atomic<bool> closing_{false};
  Worker worker_;
};

}  // namespace edgeinfer
