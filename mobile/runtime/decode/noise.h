// Gumbel noise keyed by (seed, index in the answer, token id): edgeinfer/decode/noise.py.
#pragma once

#include <cstdint>

#include "arithmetic.h"

namespace edgeinfer {

constexpr double kSpan = 41.0;  // the largest difference between two noises

// The noise of every token at one index of the answer.
class Noise {
 public:
  Noise(uint64_t seed, uint64_t index) : key_(mix(mix(seed) + index * kStep)) {}

  // Uniform in the open interval (0, 1), a multiple of 2^-52 plus a half step.
  double uniform(uint64_t token) const {
    const uint64_t bits = mix(key_ + token * kStep);
    return (static_cast<double>(static_cast<int64_t>(bits >> 12)) + 0.5) * 0x1p-52;
  }

  double gumbel(uint64_t token) const { return -portable_log(-portable_log(uniform(token))); }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio

  // splitmix64's finalizer (Steele et al., OOPSLA 2014).
  static uint64_t mix(uint64_t z) {
    z += kStep;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  uint64_t key_;
};

}  // namespace edgeinfer
