#include "loop.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "error.h"

namespace edgeinfer {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A round for a drafter. A draft row stands for the token that the target would draw from it with the noise of its
// index, so a draft is accepted when it equals the target's own token, and the output is that of plain decoding.
class KeyedRound : public DraftRound {
 public:
  KeyedRound(Cache& cache, Sampler& sampler, int64_t index, const Tokens& context)
      : cache_(cache), sampler_(sampler), index_(index) {
    const int64_t n = std::min<int64_t>(sampler.looks_back(index), static_cast<int64_t>(context.size()));
    if (n > 0) context_.assign(context.end() - n, context.end() - 1);
  }

  Row draft(int32_t token) override {
    context_.push_back(token);
    const float* logits = cache_.draft(token);
    return {logits, sampler_.pick(logits, cache_.n_vocab(), index_++, context_)};
  }

 private:
  Cache& cache_;
  Sampler& sampler_;
  int64_t index_;
  Tokens context_;
};

// The size of the next chunk of `n_tokens`. Chunks end at multiples of the chunk size, wherever the prompt began, so
// that a prompt whose front is cached runs in the same shapes as one that is not.
int64_t chunk_size(const Cache& cache, int64_t n_tokens) {
  const int64_t grid = cache.chunk_rows();
  return std::min({n_tokens, cache.policy().room(cache.length()), grid - cache.length() % grid});
}

}  // namespace

Decoder::Decoder(Program& program, const WindowPolicy& policy, Drafting drafting)
    : cache_(program, policy), drafting_(std::move(drafting)) {}

void Decoder::start(AnswerRequest request) {
  if (request.max_tokens < 1)
    fail(kUsageError, "max_tokens must be at least 1; received " + std::to_string(request.max_tokens));
  stop();
  stats_ = {};
  stats_.prompt = static_cast<int64_t>(request.prompt.tokens.size());
  timeline_.settle(cache_.length());
  const Reuse entry = reuse(timeline_, cache_.length(), request.prompt, cache_.policy());
  const int64_t gone_before = std::max<int64_t>(0, std::min(gone(), entry.shared - request.prompt.n_system));
  Sampler sampler(request.sampling);
  answer_.emplace(Answer{std::move(request), std::move(sampler), entry, gone_before});
}

Tokens Decoder::step() {
  Tokens tokens;
  try {
    tokens = advance();
  } catch (...) {
    clean_up([&] { finish(Finish::running); });
    throw;
  }
  stats_.emitted += static_cast<int64_t>(tokens.size());
  if (!tokens.empty() && answer_->request.stop_tokens.count(tokens.back()))
    finish(Finish::stop);
  else if (stats_.emitted >= answer_->request.max_tokens)
    finish(Finish::length);
  return tokens;
}

void Decoder::stop(int64_t n_unread) {
  if (answer_) finish(Finish::canceled);
  if (n_unread > 0) {
    stats_.finish = Finish::canceled;
    stats_.emitted -= n_unread;
  }
}

Tokens Decoder::advance() {
  const double began = now();
  if (answer_->entry)
    enter(began);
  else if (!answer_->is_waiting() && !cache_.policy().room(cache_.length()))
    reanchor();
  return answer_->is_waiting() ? run_chunk(began) : run_round(began);
}

// Decides what the cache keeps, and queues the rest of the prompt.
void Decoder::enter(double began) {
  const Reuse entry = *answer_->entry;
  const Tokens& prompt = answer_->request.prompt.tokens;
  cache_.rewind(entry.length);
  timeline_ = {prompt, entry.gap};
  answer_->entry.reset();
  answer_->started = began;
  for (const int64_t index : entry.runs(static_cast<int64_t>(prompt.size()))) {
    answer_->waiting.push_back(prompt[static_cast<size_t>(index)]);
    answer_->n_again += index < entry.shared;
  }
  stats_.reused = entry.length;
  stats_.reanchored = entry.gap.size() > 0 && entry.length == 0;
}

Tokens Decoder::run_chunk(double began) {
  Answer& answer = *answer_;
  const int64_t n_left = static_cast<int64_t>(answer.waiting.size() - answer.n_run), n = chunk_size(cache_, n_left);
  const auto first = answer.waiting.begin() + static_cast<int64_t>(answer.n_run);
  const bool picks = n == n_left && stats_.emitted == 0;  // the prompt's last chunk
  const float* row = cache_.verify(Tokens(first, first + n), picks);
  stats_.prefill_s += now() - began;
  Tokens tokens;
  if (picks) tokens.push_back(answer.sampler.pick(row, cache_.n_vocab(), answer.index(stats_), timeline_.tokens));
  cache_.commit(n);
  const int64_t n_again = std::min(n, answer.n_again);
  answer.n_again -= n_again;
  answer.n_run += static_cast<size_t>(n);
  stats_.reprefilled += n_again;
  stats_.prefilled += n - n_again;
  if (picks) {
    timeline_.tokens.push_back(tokens[0]);
    for (auto& drafter : drafting_.drafters) drafter->reset(timeline_.tokens);
    stats_.first_token_s = now() - answer.started;
  }
  return tokens;
}

Tokens Decoder::run_round(double began) {
  const int64_t left = answer_->request.max_tokens - stats_.emitted;
  const int64_t depth = std::min(cache_.policy().room(cache_.length()), left) - 1;
  const Arm arm = drafting_.controller ? drafting_.controller->choose(depth) : Arm{};
  const double chosen = now();
  const Tokens drafts = arm.depth ? propose(arm) : Tokens{};
  const double drafted = now();
  Tokens asked{timeline_.tokens.back()};
  asked.insert(asked.end(), drafts.begin(), drafts.end());
  const Tokens tokens = target(cache_.verify(asked, static_cast<int64_t>(asked.size())), drafts);
  cache_.commit(static_cast<int64_t>(tokens.size()));
  const double ended = now();
  const Outcome outcome{static_cast<int64_t>(drafts.size()), common_prefix(tokens, drafts),
                        static_cast<int64_t>(tokens.size()), drafted - chosen, ended - drafted};
  for (auto& drafter : drafting_.drafters) drafter->extend(tokens);
  if (drafting_.controller) drafting_.controller->observe(arm, outcome);
  stats_.add(arm.name, outcome, now() - began);
  return tokens;
}

Tokens Decoder::propose(const Arm& arm) {
  KeyedRound round(cache_, answer_->sampler, answer_->index(stats_), timeline_.tokens);
  for (auto& drafter : drafting_.drafters)
    if (drafter->name() == arm.name) return drafter->propose(round, arm.depth);
  return {};
}

// The target's own tokens, one a row: up to the first that differs from its draft, a stop token, or the limit.
Tokens Decoder::target(const float* rows, const Tokens& drafts) {
  const int64_t most = answer_->request.max_tokens - stats_.emitted, index = answer_->index(stats_);
  Tokens tokens;
  for (size_t at = 0; at <= drafts.size(); ++at) {
    const float* row = rows + static_cast<int64_t>(at) * cache_.n_vocab();
    const int32_t token =
        answer_->sampler.pick(row, cache_.n_vocab(), index + static_cast<int64_t>(at), timeline_.tokens);
    tokens.push_back(token);
    timeline_.tokens.push_back(token);
    const bool matches = at < drafts.size() && token == drafts[at];
    if (!matches || answer_->request.stop_tokens.count(token) || static_cast<int64_t>(tokens.size()) == most) break;
  }
  return tokens;
}

// At the limit: start again at position 0 with the system prompt and the newest half window.
void Decoder::reanchor() {
  const Tokens& tokens = timeline_.tokens;
  const int64_t n = static_cast<int64_t>(tokens.size()) - 1;
  const Span gap = anchor(answer_->request.prompt, n, cache_.policy());
  answer_->waiting.assign(tokens.begin(), tokens.begin() + gap.start);
  answer_->waiting.insert(answer_->waiting.end(), tokens.begin() + gap.stop, tokens.begin() + n);
  answer_->n_run = 0;
  answer_->n_again = static_cast<int64_t>(answer_->waiting.size());
  cache_.rewind(0);
  timeline_.gap = gap;
  ++stats_.reanchored;
}

// Tokens of the conversation that no query sees any more.
int64_t Decoder::gone() const { return timeline_.gap.size() + cache_.policy().n_evicted(cache_.length()); }

void Decoder::finish(Finish reason) {
  const int64_t gone_before = answer_ ? answer_->gone_before : 0;
  answer_.reset();
  cache_.rollback();
  stats_.finish = reason;
  stats_.kept = cache_.length() - cache_.policy().n_evicted(cache_.length());
  stats_.evicted = std::max<int64_t>(0, gone() - gone_before);
}

}  // namespace edgeinfer
