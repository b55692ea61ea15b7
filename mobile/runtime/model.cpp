#include "model.h"

#include "error.h"
#include "session.h"
#include "sizes.h"

namespace edgeinfer {

Model::Model(const std::string& folder, const ModelOptions& options) : n_sessions_(options.n_sessions) {
  if (n_sessions_ < 1) fail(kUsageError, "n_sessions must be at least 1; received " + std::to_string(n_sessions_));
  worker_.run_once([&] {
    program_ = std::make_unique<Program>(folder + "/model.pte", options.n_threads, "");
    info_ = program_->info();
    policy_ = make_policy(options.context, options.sink, info_.limit);
  });
}

std::unique_ptr<Decoder> Model::add(Session& session) {
  std::unique_ptr<Decoder> decoder;
  worker_.run_once([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t n = sessions_.size();
    if (n >= static_cast<size_t>(n_sessions_))
      fail(kUsageError, std::to_string(n) + " of " + std::to_string(n_sessions_) + " sessions are open",
           "free one, or open the model with more n_sessions");
    decoder = std::make_unique<Decoder>(*program_, policy_, Drafting{});
    sessions_.insert(&session);
  });
  return decoder;
}

void Model::remove(Session& session) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sessions_.erase(&session);
}

void Model::trim() {
  worker_.run_once([this] { program_->trim(); });
}

void Model::close() {
  closing_ = true;
  worker_.stop();
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Session* session : sessions_) session->release();
  sessions_.clear();
  program_.reset();
}

}  // namespace edgeinfer
