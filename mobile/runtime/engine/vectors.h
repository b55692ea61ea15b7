// Vectors of eight floats, as GCC and Clang have them: one AVX register, or two of SSE or NEON. Each file that includes
// this has functions of its own, because files are compiled for different instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

namespace edgeinfer {

constexpr int kLanes = 8;

namespace {

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* from) {
  Vec out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

inline void store(float* to, Vec values) { std::memcpy(to, &values, sizeof values); }

inline Vec all(float value) { return Vec{value, value, value, value, value, value, value, value}; }

// Lane by lane: a0+a1, a2+a3, b0+b1, b2+b3, and the same of the upper halves.
inline Vec add_pairs(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// The sum of each of eight vectors, all formed in the same order.
inline Vec sums_of(const Vec (&v)[8]) {
  const Vec a = add_pairs(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
  const Vec b = add_pairs(add_pairs(v[4], v[5]), add_pairs(v[6], v[7]));
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

inline float sum(Vec v) {
  v = add_pairs(v, v);
  v = add_pairs(v, v);
  return v[0] + v[4];
}

// e^x for x <= 0 within 2 ulp; 0 below -87. Cephes' polynomial, with 2^n made from the bits of n.
inline Vec exp_negative(Vec x) {
  const IntVec is_tiny = x < all(-87.0f);
  x = is_tiny ? all(-87.0f) : x;
  const Vec to_integer = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (x * all(1.44269504f) + to_integer) - to_integer;
  const Vec r = (x - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  Vec p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * (r * r) + r + all(1.0f);
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  const Vec result = p * scale;
  return is_tiny ? all(0.0f) : result;
}

}  // namespace
}  // namespace edgeinfer
