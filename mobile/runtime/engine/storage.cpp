#include "storage.h"

#include <algorithm>
#include <cmath>

namespace edgeinfer::engine {
namespace {

constexpr float kLargestHalf = 65504.0f, kSmallestHalf = 0x1p-14f;

uint16_t half_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const float size = std::min(std::fabs(value), kLargestHalf);
  if (size < kSmallestHalf) return static_cast<uint16_t>(sign);
  std::memcpy(&bits, &size, sizeof bits);
  bits -= 112u << 23;                  // the exponent of a half counts from -15, that of a float from -127
  bits += 0xfffu + (bits >> 13 & 1u);  // to the nearest, ties to even
  return static_cast<uint16_t>(sign | bits >> 13);
}

}  // namespace

void store_row(KvType type, const float* from, int64_t head_dim, char* to) {
  switch (type) {
    case KvType::f32:
      std::memcpy(to, from, static_cast<size_t>(head_dim) * sizeof(float));
      return;
    case KvType::f16:
      for (int64_t d = 0; d < head_dim; ++d) {
        const uint16_t half = half_of(from[d]);
        std::memcpy(to + 2 * d, &half, sizeof half);
      }
      return;
    case KvType::q8:
      float largest = 0.0f;
      for (int64_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::fabs(from[d]));
      const float scale = largest / 127.0f, inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
      for (int64_t d = 0; d < head_dim; ++d)
        to[d] = static_cast<char>(static_cast<int8_t>(std::nearbyint(from[d] * inverse)));
      std::memcpy(to + head_dim, &scale, sizeof scale);
  }
}

}  // namespace edgeinfer::engine
