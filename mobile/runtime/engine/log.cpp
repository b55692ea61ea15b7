#include "log.h"

#include <executorch/runtime/platform/platform.h>

namespace edgeinfer::engine {
namespace {

thread_local std::string complaint;

void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
          size_t length) {
  if (complaint.empty() && (level == kError || level == kFatal)) complaint.assign(message, length);
}

}  // namespace

void capture_log() {
  static const bool registered =
      executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
  (void)registered;
}

void clear_log() { complaint.clear(); }

std::string first_complaint() { return complaint; }

}  // namespace edgeinfer::engine
