#include "cache.h"

#include <algorithm>

#include "error.h"
#include "text/file.h"

namespace edgeinfer {
namespace {

void check(ei_code code, const ei_error& error, const char* hint = "") {
  if (code != EI_OK) fail(code, error.message, hint);
}

}  // namespace

Program::Program(const std::string& path, int32_t n_threads, const std::string& packed_cache, ei_kv_type kv_type) {
  ei_error error{};
  const char* packed = packed_cache.empty() ? nullptr : packed_cache.c_str();
  const ei_options options{sizeof(ei_options), n_threads, packed, kv_type};
  check(ei_open(path.c_str(), &options, &model_, &error), error, kExportAgain);
  ei_describe(model_, &info_);
}

Program::~Program() { ei_close(model_); }

void Program::trim() {
  std::vector<float>().swap(rows_);
  std::vector<float>().swap(row_);
}

Cache::Cache(Program& program, const WindowPolicy& policy) : program_(program), policy_(policy) {
  ei_error error{};
  const ei_policy of_engine{policy.window, policy.sink, policy.block, policy.limit};
  check(ei_cache_new(program.model_, &of_engine, &cache_, &error), error);
}

Cache::~Cache() { ei_cache_free(cache_); }

int64_t Cache::n_bytes() const { return ei_cache_bytes(cache_); }

void Cache::rewind(int64_t length) {
  if (!policy_.can_rewind(length_, length))
    fail(kEngineError,
         std::to_string(length_) + " positions cannot go back to " + std::to_string(length) + ": keys for it are gone");
  length_ = length;
}

const float* Cache::draft(int32_t token) {
  ei_error error{};
  const size_t n = drafted_.size(), hidden = static_cast<size_t>(program_.info_.hidden);
  states_.resize((n + 1) * hidden);
  program_.row_.resize(static_cast<size_t>(n_vocab()));
  const int64_t position = length_ + static_cast<int64_t>(n);
  check(ei_draft(cache_, token, position, program_.row_.data(), states_.data() + n * hidden, &error), error);
  drafted_.push_back(token);
  return program_.row_.data();
}

const float* Cache::verify(const Tokens& tokens, int64_t n_rows) {
  const ei_info& info = program_.info_;
  const int64_t n = static_cast<int64_t>(tokens.size()), n_quiet = n - n_rows;
  program_.rows_.resize(static_cast<size_t>(std::max(info.max_rows, n_rows) * info.n_vocab));
  const bool drafted = add_states(tokens) > 0;
  float* logits = program_.rows_.data();
  for (int64_t at = 0; at < n;) {
    const int64_t size = std::min({n - at, info.max_tokens, std::max<int64_t>(0, n_quiet - at) + info.max_rows});
    const int64_t wanted = std::min(size, std::max<int64_t>(0, at + size - n_quiet));
    run_piece(tokens, at, size, wanted, drafted, logits);
    logits += wanted * info.n_vocab;
    at += size;
  }
  return program_.rows_.data();
}

void Cache::commit(int64_t n) {
  length_ += n;
  drafted_.clear();
}

void Cache::run_piece(const Tokens& tokens, int64_t at, int64_t n, int64_t n_rows, bool drafted, float* logits) {
  ei_error error{};
  if (drafted) {
    const float* states = states_.data() + at * program_.info_.hidden;
    check(ei_verify(cache_, states, n, length_ + at, n_rows, logits, &error), error);
    return;
  }
  const std::vector<int64_t> ids(tokens.begin() + at, tokens.begin() + at + n);
  check(ei_forward(cache_, ids.data(), n, length_ + at, n_rows, logits, &error), error);
}

// Computes the states at the exit layer for all `tokens`, if the first ones were drafted. Returns how many were.
int64_t Cache::add_states(const Tokens& tokens) {
  const int64_t ready = common_prefix(drafted_, tokens), n = static_cast<int64_t>(tokens.size());
  if (ready == 0) return 0;
  const size_t hidden = static_cast<size_t>(program_.info_.hidden);
  states_.resize(tokens.size() * hidden);
  if (ready < n) {
    ei_error error{};
    const std::vector<int64_t> rest(tokens.begin() + ready, tokens.end());
    float* states = states_.data() + static_cast<size_t>(ready) * hidden;
    check(ei_front(cache_, rest.data(), n - ready, length_ + ready, states, &error), error);
  }
  return ready;
}

}  // namespace edgeinfer
