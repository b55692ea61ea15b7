// F16 products for a few rows, and their place in ggml.

#pragma once

#include <cstdint>

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

constexpr int64_t MOST_INPUTS = 16;

void multiply_rows(const Share &share, const F16Product &product);

extern "C" {

// Puts these rows in place of llamafile_sgemm in libggml-cpu. False where that function is not found, or not called
// through a slot that can be changed.
bool edgeinfer_rows_install(void);

// Puts ggml's own function back.
void edgeinfer_rows_remove(void);
}
