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

// The matrix in blocks of eight rows side by side. One input in blocks of its own, or several, a multiple of four, in
// blocks of four. `n_values` is a multiple of a block's, `n_rows` of 8.
struct RepackedProduct {
    const void *matrix;
    int64_t n_rows;
    const void *inputs;
    int64_t n_inputs;
    int64_t n_values;
    float *out;
    int64_t out_stride;
};

// block_q4_0x8 times block_q8_0 or block_q8_0x4. False where memory is short: then nothing is written.
bool multiply_q4_0(const RepackedProduct &product);

// block_q4_Kx8 times block_q8_K or block_q8_Kx4. Only with VNNI.
bool multiply_q4_K(const RepackedProduct &product);

// Four rows in block_q8_Kx4, each as ggml's quantize_row_q8_K quantizes it. Only with VNNI.
void quantize_four_q8_K(const float *inputs, void *blocks, int64_t n_values);

// out[n * out_stride + r] = row r of the matrix times input n. Both are in ggml's blocks; strides in blocks (those of `out`
// in values). A 16-bit float is a block of one value.
struct BlockProduct {
    const void *matrix;
    int64_t matrix_stride, n_rows;
    const void *inputs;
    int64_t inputs_stride, n_inputs;
    int64_t n_blocks;
    float *out;
    int64_t out_stride;
};

constexpr int64_t MOST_F16_INPUTS = 16;

// 16-bit floats, 2 to MOST_F16_INPUTS inputs.
void multiply_f16(const Share &share, const BlockProduct &product);

// block_q4_1 times block_q8_1, and block_q8_0 times block_q8_0. Only with VNNI.
void multiply_q4_1(const Share &share, const BlockProduct &product);
void multiply_q8_0(const Share &share, const BlockProduct &product);

// block_q5_K and block_q6_K times block_q8_K. Only with VNNI.
void multiply_q5_K(const Share &share, const BlockProduct &product);
void multiply_q6_K(const Share &share, const BlockProduct &product);

extern "C" {

// Puts the kernel for matrices of this ggml_type in place in the library that has `address` in it. False where there is none for this processor,
// or where ggml's function is not found, or not called through a slot that can be changed.
bool edgeinfer_kernel_install(int type, const void *address);

// Lets ggml's own kernel run again.
void edgeinfer_kernel_remove(int type);

// The kernel for repacked matrices of this ggml_type, with the arguments of ggml's gemv and gemm, for the self-test.
bool edgeinfer_repacked(int type, int n_values, float *out, size_t out_stride, const void *matrix, const void *inputs,
                        int n_inputs, int n_rows);

// quantize_four_q8_K, for the self-test.
void edgeinfer_quantize_four(const float *inputs, void *blocks, int64_t n_values);
}
