#include "taught.h"

#include <algorithm>

#include "engine_call.h"

namespace edgeinfer {
namespace {

// The draft's layer, with K and V at the conversation's positions, and what makes its inputs.
class DraftLayer {
 public:
  DraftLayer(ei_model* model, const ei_info& info, const WindowPolicy& policy)
      : info_(info),
        policy_(policy),
        logits_(static_cast<size_t>(info.draft_n_ranked)),
        state_(static_cast<size_t>(info.hidden)) {
    const ei_policy of_engine{policy.window, policy.sink, policy.block, policy.limit};
    call(ei_taught_new, model, &of_engine, &handle_);
  }
  ~DraftLayer() { ei_taught_free(handle_); }
  DraftLayer(const DraftLayer&) = delete;
  DraftLayer& operator=(const DraftLayer&) = delete;

  const ei_info& info() const { return info_; }
  int64_t first() const { return first_; }    // no key lies before this position
  int64_t length() const { return length_; }  // the position of the next row
  // Of the last row.
  const float* logits() const { return logits_.data(); }
  const float* state() const { return state_.data(); }

  void rewind(int64_t length) { length_ = length; }
  // Forgets everything; the next row is at `position`.
  void start_at(int64_t position) { first_ = length_ = position; }

  // Adds rows [n, hidden].
  void run(const std::vector<float>& inputs) {
    int64_t left = static_cast<int64_t>(inputs.size()) / info_.hidden, position = length_;
    for (const float* row = inputs.data(); left > 0;) {
      const int64_t n = std::min({left, info_.max_tokens, policy_.room(position)});
      call(ei_taught_layer, handle_, row, n, position, first_, logits_.data(), state_.data());
      row += n * info_.hidden;
      position += n;
      left -= n;
    }
    length_ = position;
  }

  // Appends the inputs for `tokens` [n] and what is `known` [n, hidden] of the positions before them.
  void join(const Tokens& tokens, const float* known, std::vector<float>& inputs) const {
    const std::vector<int64_t> ids(tokens.begin(), tokens.end());
    const size_t end = inputs.size();
    inputs.resize(end + ids.size() * state_.size());
    call(ei_taught_input, handle_, ids.data(), known, static_cast<int64_t>(ids.size()), inputs.data() + end);
  }

  // What the tapped states [n, taps, hidden] say: [n, hidden].
  std::vector<float> known(const std::vector<float>& tapped) const {
    const int64_t n = static_cast<int64_t>(tapped.size()) / (info_.draft_n_taps * info_.hidden);
    std::vector<float> out(static_cast<size_t>(n * info_.hidden));
    call(ei_taught_known, handle_, tapped.data(), n, out.data());
    return out;
  }

 private:
  const ei_info info_;
  const WindowPolicy policy_;
  ei_taught* handle_ = nullptr;
  int64_t first_ = 0, length_ = 0;
  std::vector<float> logits_, state_;
};

// Tokens and tapped states of the newest positions, at most kTappedRows of them: from start to before stop.
class TapLog {
 public:
  // `width`: taps * hidden.
  explicit TapLog(int64_t width)
      : width_(width), tokens_(kTappedRows), tapped_(static_cast<size_t>(kTappedRows * width)) {}

  int64_t stop() const { return stop_; }
  int32_t token(int64_t position) const { return tokens_[static_cast<size_t>(position % kTappedRows)]; }

  // Appends the states at `position` to `out`: zeros where they are no longer kept. The draft gets worse then, the
  // tokens do not.
  void append_tapped(int64_t position, std::vector<float>& out) const {
    if (position < start_) {
      out.resize(out.size() + static_cast<size_t>(width_));
      return;
    }
    const auto row = tapped_.begin() + position % kTappedRows * width_;
    out.insert(out.end(), row, row + width_);
  }

  void add(const Tokens& tokens, const float* tapped) {
    for (const int32_t token : tokens) {
      tokens_[static_cast<size_t>(stop_ % kTappedRows)] = token;
      std::copy(tapped, tapped + width_, tapped_.begin() + stop_ % kTappedRows * width_);
      tapped += width_;
      ++stop_;
    }
    start_ = std::max(start_, stop_ - kTappedRows);
  }

  void rewind(int64_t length) {
    stop_ = length;
    start_ = std::min(start_, length);
  }

 private:
  const int64_t width_;
  int64_t start_ = 0, stop_ = 0;
  Tokens tokens_;
  std::vector<float> tapped_;
};

// The row at a position needs the token there and the model's states at the position before. So committed tokens and
// the newest one have true inputs, and deeper drafts use the layer's own state. Keys of true rows stay.
class FeatureDrafts : public TaughtDrafts {
 public:
  FeatureDrafts(ei_model* model, const ei_info& info, const WindowPolicy& policy)
      : layer_(model, info, policy), log_(info.draft_n_taps * info.hidden) {
    layer_.start_at(1);  // no states come before position 0
  }

  const float* draft(int32_t token, int64_t position, const float*) override {
    std::vector<float> inputs;
    if (is_deeper_) {
      layer_.join({token}, layer_.state(), inputs);
    } else {
      if (!position) layer_.start_at(0);  // for this round
      inputs = inputs_until(position, {token});
    }
    layer_.run(inputs);
    is_deeper_ = true;
    return layer_.logits();
  }

  void end(int64_t n_kept) override {
    is_deeper_ = false;
    if (!layer_.first()) {
      layer_.start_at(1);
      return;
    }
    const int64_t n_true = log_.stop() + std::min<int64_t>(n_kept, 1);  // deeper rows used the layer's own state
    layer_.rewind(std::min(layer_.length(), std::max(layer_.first(), n_true)));
  }

  void saw(const Tokens& tokens, const float* seen) override {
    if (log_.stop() + static_cast<int64_t>(tokens.size()) - layer_.length() > kTappedRows)
      layer_.run(inputs_until(log_.stop(), {}));
    log_.add(tokens, seen);
  }

  void rewind(int64_t length) override {
    is_deeper_ = false;
    log_.rewind(length);
    if (length < layer_.first())
      layer_.start_at(std::max<int64_t>(1, length));
    else
      layer_.rewind(std::min(layer_.length(), std::max<int64_t>(1, length)));
  }

 private:
  // The inputs of the tokens that the layer has not run, up to before `stop`, and of `newest` there.
  std::vector<float> inputs_until(int64_t stop, const Tokens& newest) const {
    Tokens tokens;
    for (int64_t position = layer_.length(); position < stop; ++position) tokens.push_back(log_.token(position));
    tokens.insert(tokens.end(), newest.begin(), newest.end());
    std::vector<float> inputs;
    const int64_t n = static_cast<int64_t>(tokens.size()), most = layer_.info().max_tokens;
    for (int64_t at = 0; at < n; at += most) {
      const int64_t end = std::min(n, at + most);
      std::vector<float> tapped;
      for (int64_t i = at; i < end; ++i) log_.append_tapped(layer_.length() + i - 1, tapped);
      layer_.join({tokens.begin() + at, tokens.begin() + end}, layer_.known(tapped).data(), inputs);
    }
    return inputs;
  }

  DraftLayer layer_;
  TapLog log_;
  bool is_deeper_ = false;  // the round has a draft
};

// The layer runs on the state of the model's first layers, so the rows of all accepted drafts are true.
class ExitDrafts : public TaughtDrafts {
 public:
  ExitDrafts(ei_model* model, const ei_info& info, const WindowPolicy& policy)
      : layer_(model, info, policy), hidden_(info.hidden) {}

  const float* draft(int32_t, int64_t, const float* state) override {
    std::vector<float> inputs = unfed_;
    inputs.insert(inputs.end(), state, state + hidden_);
    layer_.run(inputs);
    unfed_.clear();
    return layer_.logits();
  }

  void end(int64_t n_kept) override { layer_.rewind(std::min(layer_.length(), length_ + n_kept)); }

  void saw(const Tokens& tokens, const float* seen) override {
    const int64_t n = static_cast<int64_t>(tokens.size()), n_run = std::max<int64_t>(0, layer_.length() - length_);
    unfed_.insert(unfed_.end(), seen + n_run * hidden_, seen + n * hidden_);
    length_ += n;
    const int64_t n_too_many = static_cast<int64_t>(unfed_.size()) / hidden_ - kTappedRows;
    if (n_too_many <= 0) return;
    unfed_.erase(unfed_.begin(), unfed_.begin() + n_too_many * hidden_);
    layer_.start_at(length_ - kTappedRows);
  }

  void rewind(int64_t length) override {
    length_ = length;
    unfed_.resize(static_cast<size_t>(std::max<int64_t>(0, length - layer_.length()) * hidden_));
    if (length < layer_.first())
      layer_.start_at(length);
    else
      layer_.rewind(std::min(layer_.length(), length));
  }

 private:
  DraftLayer layer_;
  const int64_t hidden_;
  int64_t length_ = 0;        // committed
  std::vector<float> unfed_;  // [n, hidden] of the newest committed tokens, which the layer has not run
};

}  // namespace

std::unique_ptr<TaughtDrafts> new_taught_drafts(ei_model* model, const ei_info& info, const WindowPolicy& policy) {
  if (info.draft_n_taps) return std::make_unique<FeatureDrafts>(model, info, policy);
  return std::make_unique<ExitDrafts>(model, info, policy);
}

}  // namespace edgeinfer
