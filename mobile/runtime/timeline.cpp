#include "timeline.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "error.h"

namespace edgeinfer {
namespace {

int64_t size_of(const Tokens& tokens) { return static_cast<int64_t>(tokens.size()); }

// Where the last two messages begin: the question, and the header of the answer.
int64_t newest_start(const Prompt& prompt) {
  return prompt.starts.size() > 1 ? prompt.starts[prompt.starts.size() - 2] : prompt.n_system;
}

// Whether enough tokens follow the gap. After an edit there may be fewer than a new re-anchoring would keep.
bool sees_enough(const Span& gap, const Prompt& prompt, int64_t shared, const WindowPolicy& policy) {
  const int64_t n = size_of(prompt.tokens);
  const bool continues = prompt.starts.empty() || shared == n - 1;
  const bool whole = continues || gap.stop <= newest_start(prompt);
  return whole && n - gap.stop >= policy.window / 2 - policy.block;
}

// Like `anchor`, but the last two messages stay whole.
Span anchor_prompt(const Prompt& prompt, const WindowPolicy& policy) {
  const int64_t n = size_of(prompt.tokens), newest = newest_start(prompt);
  const int64_t needed = n - newest + std::min(prompt.n_system, newest);
  if (needed > policy.limit)
    fail(kUsageError,
         "the newest message needs " + std::to_string(needed) + " positions, the model has " +
             std::to_string(policy.limit),
         "shorten it, or choose a model with a longer context");
  const Span gap = anchor(prompt, n, policy);
  if (gap.start < newest && newest < gap.stop) return {gap.start, newest};
  return newest >= gap.stop ? gap : Span{};
}

// Start again at position 0, although `shared` tokens were run before.
Reuse afresh(const Prompt& prompt, int64_t shared, const WindowPolicy& policy) {
  const int64_t n = size_of(prompt.tokens);
  const bool another = std::none_of(prompt.starts.begin(), prompt.starts.end(),
                                    [&](int64_t start) { return prompt.n_system < start && start <= shared; });
  if (n <= policy.window || (another && n <= policy.limit)) return {0, {}, shared};
  return {0, anchor_prompt(prompt, policy), shared};
}

}  // namespace

int64_t Timeline::position(int64_t index) const {
  return index >= gap.stop ? index - gap.size() : std::min(index, gap.start);
}

int64_t Timeline::index(int64_t length) const { return length > gap.start ? length + gap.size() : length; }

void Timeline::settle(int64_t length) {
  tokens.resize(static_cast<size_t>(std::min(size_of(tokens), index(length))));
  if (length <= gap.start) gap = {};
}

std::vector<int64_t> Reuse::runs(int64_t n_tokens) const {
  std::vector<int64_t> indices;
  for (int64_t at = length > gap.start ? length + gap.size() : length; at < n_tokens; ++at)
    if (at < gap.start || at >= gap.stop) indices.push_back(at);
  return indices;
}

Reuse reuse(const Timeline& timeline, int64_t length, const Prompt& prompt, const WindowPolicy& policy) {
  const int64_t n = size_of(prompt.tokens);
  if (n == 0) fail(kUsageError, "the prompt is empty", "give at least one token");
  if (prompt.n_system > policy.sink)
    fail(kUsageError,
         "the system prompt has " + std::to_string(prompt.n_system) + " tokens, the window keeps " +
             std::to_string(policy.sink),
         "a sink of " + std::to_string(prompt.n_system) + " fits it");
  const int64_t shared = std::min(common_prefix(timeline.tokens, prompt.tokens), n - 1);
  const int64_t kept = timeline.position(shared);
  const Span gap = shared >= timeline.gap.stop ? timeline.gap : Span{};
  const bool fits = n - gap.size() <= policy.limit && (gap.size() == 0 || sees_enough(gap, prompt, shared, policy));
  if (fits && policy.can_rewind(length, kept)) return {kept, gap, shared};
  return afresh(prompt, shared, policy);
}

Span anchor(const Prompt& prompt, int64_t n_tokens, const WindowPolicy& policy) {
  const int64_t wanted = n_tokens - policy.window / 2;
  int64_t cut = wanted, nearest = policy.block + 1;
  for (const int64_t start : prompt.starts) {
    const int64_t distance = std::abs(start - wanted);
    if (distance < nearest) {
      cut = start;
      nearest = distance;
    }
  }
  return cut > prompt.n_system ? Span{prompt.n_system, cut} : Span{};
}

}  // namespace edgeinfer
