// The words of Metal that the kernels use, in CUDA. tests/metal/cuda/generate.py rewrites what a header cannot: address spaces,
// the signature, threadgroup arrays. A SIMD group is a warp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef unsigned int uint;
typedef unsigned short ushort;
typedef __half float16_t;
typedef __nv_bfloat16 bfloat16_t;
typedef float float32_t;

template <typename To, typename From>
__device__ inline To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

enum class mem_flags { mem_none, mem_threadgroup, mem_device };
__device__ inline void threadgroup_barrier(mem_flags) { __syncthreads(); }

constexpr unsigned WARP = 0xFFFFFFFFu;
template <typename T>
__device__ inline T simd_shuffle(T x, int from) { return __shfl_sync(WARP, x, from); }
template <typename T>
__device__ inline T simd_shuffle_xor(T x, int mask) { return __shfl_xor_sync(WARP, x, mask); }
__device__ inline bool simd_any(bool x) { return __any_sync(WARP, x); }
template <typename T>
__device__ inline T simd_sum(T x) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(WARP, x, step);
  return x;
}
template <typename T>
__device__ inline T simd_max(T x) {
  for (int step = 16; step; step /= 2) x = max(x, __shfl_xor_sync(WARP, x, step));
  return x;
}
template <typename T>
__device__ inline T simd_min(T x) {
  for (int step = 16; step; step /= 2) x = min(x, __shfl_xor_sync(WARP, x, step));
  return x;
}

namespace metal {
__device__ inline float exp(float x) { return expf(x); }
__device__ inline float rint(float x) { return rintf(x); }
__device__ inline float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }
namespace precise {
__device__ inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
__device__ inline float tanh(float x) { return tanhf(x); }
}  // namespace precise
}  // namespace metal
