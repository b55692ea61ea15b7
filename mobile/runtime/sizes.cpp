#include "sizes.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "taught.h"

namespace edgeinfer {
namespace {

constexpr int64_t kDefaultContext = 4096;
constexpr int64_t kDefaultSink = 128;
constexpr int64_t kMinBlock = 64;
constexpr int64_t kBlocks = 8;  // of a window
constexpr int64_t kMinWindow = 4 * kMinBlock;

// Measured on x86-64 with vocabularies of 288, 16,384 and 49,152 tokens.
constexpr int64_t kLibraryBytes = 5 * 1000 * 1000;
constexpr int64_t kTokenizerBytesPerToken = 120;
constexpr int64_t kForwardTokens = 128;
constexpr int64_t kForwardRows = 16;

}  // namespace

WindowPolicy make_policy(int64_t context, int64_t sink, int64_t limit) {
  if (context == 0) context = std::min(kDefaultContext, limit);
  if (context - std::max<int64_t>(0, sink) < kMinWindow)
    fail(kUsageError,
         "context must hold " + std::to_string(kMinWindow) + " recent tokens and the sink; received " +
             std::to_string(context) + " with sink " + std::to_string(std::max<int64_t>(0, sink)),
         "a context of " + std::to_string(kMinWindow + std::max<int64_t>(0, sink)) + " is the smallest");
  if (context > limit)
    fail(kUsageError,
         "context must not pass the model's " + std::to_string(limit) + " positions; received " +
             std::to_string(context),
         "a context of " + std::to_string(limit) + " is the largest");
  if (sink < 0) sink = std::min(kDefaultSink, context - kMinWindow);
  int64_t window = context - sink;
  window -= window % (window >= kBlocks * kMinBlock ? kBlocks : kMinBlock);
  return {window, sink, std::max(kMinBlock, window / kBlocks), limit};
}

int64_t session_bytes(const Manifest& manifest, const WindowPolicy& policy, bool opens_draft) {
  const int64_t kv = policy.slots() * manifest.memory.kv_bytes_per_position;
  if (!manifest.draft || !opens_draft) return kv;
  const int64_t n_states = std::max<int64_t>(1, static_cast<int64_t>(manifest.draft->taps.size()));
  return kv + kv / manifest.n_layers + kTappedRows * n_states * manifest.hidden * int64_t{sizeof(float)};
}

int64_t workspace_bytes(const Manifest& manifest) {
  const int64_t float_bytes = sizeof(float);
  const int64_t activations = kForwardTokens * (7 * manifest.hidden + 5 * manifest.n_ffn) * float_bytes;
  const int64_t logits = 2 * kForwardRows * manifest.n_vocab * float_bytes;  // in the program, and handed out
  return kLibraryBytes + kTokenizerBytesPerToken * manifest.n_vocab + activations + logits;
}

}  // namespace edgeinfer
