// mobile/runtime/decode with a C interface, for the tests: what Python calls by ctypes.
#include <cstdio>
#include <cstring>

#include "arithmetic.h"
#include "noise.h"
#include "sampler.h"
#include "error.h"

using namespace edgeinfer;

extern "C" {

void check_exp(int64_t n, const double* x, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = portable_exp(x[i]);
}

void check_log(int64_t n, const double* x, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = portable_log(x[i]);
}

void check_uniform(uint64_t seed, uint64_t index, int64_t n, const int64_t* tokens, double* out) {
  const Noise noise(seed, index);
  for (int64_t i = 0; i < n; ++i) out[i] = noise.uniform(static_cast<uint64_t>(tokens[i]));
}

// The sampler, or NULL with the reason in `message` [200]. numbers: temperature, top-p, min-p, and the penalties for
// repeats, presence and frequency.
Sampler* check_sampler(const double* numbers, int64_t top_k, int64_t repeat_last_n, uint64_t seed, int64_t n_bias,
                       const int32_t* tokens, const double* biases, char* message) {
  Sampling how;
  how.temperature = numbers[0];
  how.top_p = numbers[1];
  how.min_p = numbers[2];
  how.repeat_penalty = numbers[3];
  how.presence_penalty = numbers[4];
  how.frequency_penalty = numbers[5];
  how.top_k = top_k;
  how.repeat_last_n = repeat_last_n;
  how.seed = seed;
  for (int64_t i = 0; i < n_bias; ++i) how.logit_bias.emplace_back(tokens[i], biases[i]);
  try {
    return new Sampler(how);
  } catch (const Failure& failure) {
    std::snprintf(message, 200, "%s", failure.what());
    return nullptr;
  }
}

void check_sampler_free(Sampler* sampler) { delete sampler; }

// The token, or -1 with the reason in `message` [200].
int64_t check_pick(Sampler* sampler, const float* row, int64_t n_vocab, int64_t index, const int32_t* context,
                   int64_t n_context, char* message) {
  try {
    return sampler->pick(row, n_vocab, index, Tokens(context, context + n_context));
  } catch (const Failure& failure) {
    std::snprintf(message, 200, "%s", failure.what());
    return -1;
  }
}

}  // extern "C"
