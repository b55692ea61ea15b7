// How a row of K or V (head_dim values of one head at one position) is kept, and how it is read eight values at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace edgeinfer::engine {

enum class KvType : int32_t { f32 = 0, f16 = 1, q8 = 2 };  // as ei_kv_type

// Rounds a row to what is kept of it: `to` [row_bytes]. f16: values beyond its range become its largest, and those
// below its smallest normal one become 0.
void store_row(KvType type, const float* from, int64_t head_dim, char* to);

namespace {

// q8: 8-bit values, then their float32 scale.
constexpr int64_t row_bytes(KvType type, int64_t head_dim) {
  switch (type) {
    case KvType::f16:
      return 2 * head_dim;
    case KvType::q8:
      return head_dim + static_cast<int64_t>(sizeof(float));
    default:
      return static_cast<int64_t>(sizeof(float)) * head_dim;
  }
}

inline Vec joined(const void* low, const void* high) {
  Vec out;
  std::memcpy(&out, low, 16);
  std::memcpy(reinterpret_cast<char*>(&out) + 16, high, 16);
  return out;
}

// Rows of one type. Values are read from `d` on.
struct F32 {
  static constexpr KvType kType = KvType::f32;
  static Vec load(const char* row, int d) { return edgeinfer::load(reinterpret_cast<const float*>(row) + d); }
};

struct F16 {
  static constexpr KvType kType = KvType::f16;
  static Vec load(const char* row, int d) {
    const char* from = row + 2 * d;
#if defined(__AVX2__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__ARM_NEON)
    const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(from)));
    const float32x4_t low = vcvt_f32_f16(vget_low_f16(halves)), high = vcvt_f32_f16(vget_high_f16(halves));
    return joined(&low, &high);
#else
    typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
    typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words);
    Words bits = (words & 0x7fffu) << 13;
    Vec values;
    std::memcpy(&values, &bits, sizeof bits);
    values *= all(0x1p112f);  // the exponent of a half counts from -15, that of a float from -127
    std::memcpy(&bits, &values, sizeof bits);
    bits |= (words & 0x8000u) << 16;
    std::memcpy(&values, &bits, sizeof bits);
    return values;
#endif
  }
};

struct Q8 {
  static constexpr KvType kType = KvType::q8;
  static Vec load(const char* row, int d) {
    const int8_t* from = reinterpret_cast<const int8_t*>(row) + d;
#if defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#elif defined(__ARM_NEON)
    const int16x8_t wide = vmovl_s8(vld1_s8(from));
    const float32x4_t low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    const float32x4_t high = vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)));
    return joined(&low, &high);
#else
    typedef int8_t Bytes __attribute__((vector_size(16)));
    typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
    typedef int64_t Longs __attribute__((vector_size(16)));
    int64_t eight;
    std::memcpy(&eight, from, sizeof eight);
    const Longs longs = {eight, 0};
    Bytes bytes;
    std::memcpy(&bytes, &longs, sizeof bytes);
    bytes = __builtin_shufflevector(bytes, bytes, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    Shorts shorts;
    std::memcpy(&shorts, &bytes, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(shorts >> 8, IntVec), Vec);
#endif
  }

  static float scale(const char* row, int head_dim) {
    float out;
    std::memcpy(&out, row + head_dim, sizeof out);
    return out;
  }
};

}  // namespace
}  // namespace edgeinfer::engine
