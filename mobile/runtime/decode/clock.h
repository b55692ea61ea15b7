// Seconds of a monotonic clock.
#pragma once

#include <chrono>
#include <functional>

namespace edgeinfer {

using Clock = std::function<double()>;

inline double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace edgeinfer
