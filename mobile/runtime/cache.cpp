#include "cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine_call.h"
#include "text/file.h"

namespace edgeinfer {

Program::Program(const std::string& path, int32_t n_threads, const std::string& packed_cache, ei_kv_type kv_type,
                 Tokens ranked)
    : ranked_(std::move(ranked)) {
  ei_error error{};
  const char* packed = packed_cache.empty() ? nullptr : packed_cache.c_str();
  const ei_options options{sizeof(ei_options), n_threads, packed, kv_type};
  check(ei_open(path.c_str(), &options, &model_, &error), error, kExportAgain);
  ei_describe(model_, &info_);
}

Program::~Program() { ei_close(model_); }

std::string Program::drafts_with() const {
  if (!drafts_) return "";
  if (info_.exit_layer) return "early-exit";
  if (ranked_.empty()) return "";
  return info_.draft_n_taps ? "feature" : "exit";
}

void Program::trim() {
  std::vector<float>().swap(rows_);
  std::vector<float>().swap(row_);
}

Cache::Cache(Program& program, const WindowPolicy& policy) : program_(program), policy_(policy) {
  const ei_policy of_engine{policy.window, policy.sink, policy.block, policy.limit};
  if (!program.ranked_.empty()) taught_ = new_taught_drafts(program.model_, program.info_, policy);
  call(ei_cache_new, program.model_, &of_engine, &cache_);
}

Cache::~Cache() { ei_cache_free(cache_); }

int64_t Cache::n_bytes() const { return ei_cache_bytes(cache_); }

void Cache::rewind(int64_t length) {
  if (!policy_.can_rewind(length_, length))
    fail(kEngineError,
         std::to_string(length_) + " positions cannot go back to " + std::to_string(length) + ": keys for it are gone");
  length_ = length;
  if (taught_) taught_->rewind(length);
}

const float* Cache::draft(int32_t token) {
  const size_t n = drafted_.size(), hidden = static_cast<size_t>(program_.info_.hidden);
  states_.resize((n + 1) * hidden);
  float* state = states_.data() + n * hidden;
  const int64_t position = length_ + static_cast<int64_t>(n);
  if (taught_) {
    draft_taught(token, position, state);
  } else {
    program_.row_.resize(static_cast<size_t>(n_vocab()));
    call(ei_draft, cache_, token, position, program_.row_.data(), state);
  }
  drafted_.push_back(token);
  return program_.row_.data();
}

const float* Cache::verify(const Tokens& tokens, int64_t n_rows) {
  const ei_info& info = program_.info_;
  const int64_t n = static_cast<int64_t>(tokens.size()), n_quiet = n - n_rows;
  program_.rows_.resize(static_cast<size_t>(std::max(info.max_rows, n_rows) * info.n_vocab));
  const bool has_states = add_states(tokens);
  if (taught_) verified_ = tokens;
  tapped_.resize(taught_ ? static_cast<size_t>(n * info.draft_n_taps * info.hidden) : 0);
  float* logits = program_.rows_.data();
  for (int64_t at = 0; at < n;) {
    const int64_t size = std::min({n - at, info.max_tokens, std::max<int64_t>(0, n_quiet - at) + info.max_rows});
    const int64_t wanted = std::min(size, std::max<int64_t>(0, at + size - n_quiet));
    run_piece(tokens, at, size, wanted, has_states, logits);
    logits += wanted * info.n_vocab;
    at += size;
  }
  return program_.rows_.data();
}

void Cache::commit(int64_t n) {
  length_ += n;
  const Tokens drafted = std::exchange(drafted_, {});
  if (!taught_) return;
  verified_.resize(static_cast<size_t>(n));
  taught_->end(common_prefix(drafted, verified_));
  if (n) taught_->saw(verified_, program_.info_.draft_n_taps ? tapped_.data() : states_.data());
}

void Cache::draft_taught(int32_t token, int64_t position, float* state) {
  const int64_t id = token;
  if (program_.info_.draft_exit_layer) call(ei_front, cache_, &id, 1, position, state);
  const float* logits = taught_->draft(token, position, state);
  // Other tokens stay at minus infinity from one draft to the next.
  if (program_.row_.empty())
    program_.row_.assign(static_cast<size_t>(n_vocab()), -std::numeric_limits<float>::infinity());
  for (const int32_t ranked : program_.ranked_) program_.row_[static_cast<size_t>(ranked)] = *logits++;
}

void Cache::run_piece(const Tokens& tokens, int64_t at, int64_t n, int64_t n_rows, bool has_states, float* logits) {
  const ei_info& info = program_.info_;
  const int64_t position = length_ + at;
  const std::vector<int64_t> ids(tokens.begin() + at, tokens.begin() + at + n);
  if (has_states)
    call(ei_verify, cache_, states_.data() + at * info.hidden, n, position, n_rows, logits);
  else if (!tapped_.empty())
    call(ei_forward_tapped, cache_, ids.data(), n, position, n_rows, logits,
         tapped_.data() + at * info.draft_n_taps * info.hidden);
  else
    call(ei_forward, cache_, ids.data(), n, position, n_rows, logits);
}

// Computes the states after the early layers for all `tokens`, if the first ones were drafted by these layers, or if a
// taught draft starts from them.
bool Cache::add_states(const Tokens& tokens) {
  const ei_info& info = program_.info_;
  const bool feeds_draft = taught_ && info.draft_exit_layer;
  const int64_t n = static_cast<int64_t>(tokens.size());
  const int64_t ready = info.exit_layer || feeds_draft ? common_prefix(drafted_, tokens) : 0;
  if (!ready && !feeds_draft) return false;
  states_.resize(static_cast<size_t>(n * info.hidden));
  if (ready < n) {
    const std::vector<int64_t> rest(tokens.begin() + ready, tokens.end());
    call(ei_front, cache_, rest.data(), n - ready, length_ + ready, states_.data() + ready * info.hidden);
  }
  return true;
}

}  // namespace edgeinfer
