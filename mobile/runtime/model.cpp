#include "model.h"

#include "error.h"
#include "session.h"
#include "sizes.h"

namespace edgeinfer {

Model::Model(const std::string& folder, const ModelOptions& options) : options_(options) {
  worker_.run_once([&] {
    program_ = std::make_unique<Program>(folder + "/model.pte", options.n_threads, "");
    info_ = program_->info();
    policy_ = make_policy(options.context, options.sink, info_.limit);
    costs_ = measure(*program_, 0, options.drafting, CostFile("", ""));
  });
}

std::unique_ptr<Decoder> Model::add(Session& session) {
  std::unique_ptr<Decoder> decoder;
  worker_.run_once([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t n = sessions_.size();
    if (n >= static_cast<size_t>(options_.n_sessions))
      fail(kUsageError, std::to_string(n) + " of " + std::to_string(options_.n_sessions) + " sessions are open",
           "free one, or open the model with more n_sessions");
    decoder = std::make_unique<Decoder>(*program_, policy_, new_drafting(*program_, costs_.get(), options_.drafting));
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
