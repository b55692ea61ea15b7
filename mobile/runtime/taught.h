// A taught draft on one conversation: the inputs of its layer, and when they are run. edgeinfer/backends/taught.py says
// which inputs are true; edgeinfer/backends/executorch/taught.py runs them on the same engine.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/window.h"
#include "protocols.h"

namespace edgeinfer {

constexpr int64_t kTappedRows = 512;  // positions whose states are kept for a draft

// The drafts of one conversation. `saw` receives every committed token. `draft` is called for the newest token, then
// for each draft; `end` ends the round.
class TaughtDrafts {
 public:
  virtual ~TaughtDrafts() = default;

  // Logits [draft_n_ranked] after `token` at `position`, valid until the next draft. `state` [hidden]: that of the
  // token after the model's first layers, for an exit draft.
  virtual const float* draft(int32_t token, int64_t position, const float* state) = 0;
  // Ends a round. The tokens of its first `n_kept` drafts were committed.
  virtual void end(int64_t n_kept) = 0;
  // Committed tokens [n], after `end`. `seen`: their tapped states [n, taps, hidden] for a feature draft, or their
  // states [n, hidden] after the first layers.
  virtual void saw(const Tokens& tokens, const float* seen) = 0;
  // Forgets the positions from `length` on.
  virtual void rewind(int64_t length) = 0;
};

std::unique_ptr<TaughtDrafts> new_taught_drafts(ei_model* model, const ei_info& info, const WindowPolicy& policy);

}  // namespace edgeinfer
