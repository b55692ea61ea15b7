// Products of matrices with a few rows, and their places in ggml.

#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define EDGEINFER_VNNI
#endif

struct Share {  // the part of one thread: index of `of`
    int64_t index, of;
};

// out[n * out_stride + r] = sum over v of matrix[r * matrix_stride + v] * inputs[n * inputs_stride + v]; strides in values
struct F16Product {
    const uint16_t *matrix;
    int64_t matrix_stride, n_rows;
    const uint16_t *inputs;
    int64_t inputs_stride, n_inputs;
    int64_t n_values;
    float *out;
    int64_t out_stride;
};

constexpr int64_t MOST_F16_INPUTS = 16;

void multiply_f16(const Share &share, const F16Product &product);

// The matrix in blocks of eight rows side by side (block_q4_0x8). One input in block_q8_0, or several, a multiple of
// four, in block_q8_0x4. `n_values` is a multiple of 32, `n_rows` of 8.
struct Q4_0Product {
    const void *matrix;
    int64_t n_rows;
    const void *inputs;
    int64_t n_inputs;
    int64_t n_values;
    float *out;
    int64_t out_stride;
};

// False where memory is short: then nothing is written.
bool multiply_q4_0(const Q4_0Product &product);

// Matrix and inputs in ggml's blocks of 32 values; strides in blocks (those of `out` in values).
struct BlockProduct {
    const void *matrix;
    int64_t matrix_stride, n_rows;
    const void *inputs;
    int64_t inputs_stride, n_inputs;
    int64_t n_blocks;
    float *out;
    int64_t out_stride;
};

// block_q4_1 times block_q8_1, and block_q8_0 times block_q8_0. Only with VNNI.
void multiply_q4_1(const Share &share, const BlockProduct &product);
void multiply_q8_0(const Share &share, const BlockProduct &product);

extern "C" {

// Puts the kernel for matrices of this ggml_type in place in libggml-cpu. False where there is none for this processor,
// or where ggml's function is not found, or not called through a slot that can be changed.
bool edgeinfer_kernel_install(int type);

// Lets ggml's own kernel run again.
void edgeinfer_kernel_remove(int type);

// multiply_q4_0 with the arguments of ggml_gemv_q4_0_8x8_q8_0 and ggml_gemm_q4_0_8x8_q8_0, for the self-test.
bool edgeinfer_q4_0(int n_values, float *out, size_t out_stride, const void *matrix, const void *inputs, int n_inputs,
                    int n_rows);
}
