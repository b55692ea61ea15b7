// F16 matrices times 2 to 16 rows, each row with the bits that it has alone.
//
// ggml (0.25) multiplies a single row by streaming the matrix (ggml_vec_dot_f16), and several with a kernel that adds in
// another order: the rows round differently, and two cost up to twice as much as one. Here the matrix is read once, in
// order, for all rows, and every row is added up as ggml_vec_dot_f16 does it: four sums side by side, then their lanes,
// then what is left of the row. Few rows then wait for the same memory as one.

#include "kernels.h"

#include <immintrin.h>

#include <algorithm>
#include <memory>
#include <new>

namespace {

constexpr int CHAINS = 4;                 // sums that are kept side by side
constexpr int64_t AHEAD = 3072;           // bytes: how far in front the matrix is fetched
constexpr int64_t LINE = 64;              // bytes of a cache line
constexpr int64_t SAME_SETS = 4096;       // addresses so far apart compete for the same places of the first cache
constexpr int64_t PADDING = 32;           // values between rows of the input, against the same

#if defined(__AVX512F__)

using Vector = __m512;
constexpr int64_t LANES = 16;
constexpr int MOST_SUMS = 24;  // of 32 registers
constexpr int PANEL = 6;       // rows at once

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)));
}
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }

// The sums over the lanes of four vectors, added 8 lanes apart, then 4, 2, 1, as _mm512_reduce_add_ps does.
inline void sum_lanes(const Vector *v, float *sums) {
    const Vector ab = add(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xEE));
    const Vector cd = add(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xEE));
    const Vector four = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    const Vector two = add(four, _mm512_shuffle_ps(four, four, 0x4E));
    const Vector one = add(two, _mm512_shuffle_ps(two, two, 0xB1));
    _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

using Vector = __m256;
constexpr int64_t LANES = 8;
constexpr int MOST_SUMS = 12;  // of 16 registers
constexpr int PANEL = 3;

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const uint16_t *x) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x)));
}
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }

// The sums over the lanes of four vectors, added 4 lanes apart, then neighbors, twice.
inline void sum_lanes(const Vector *v, float *sums) {
    __m128 four[4];
    for (int i = 0; i < 4; ++i)
        four[i] = _mm_add_ps(_mm256_castps256_ps128(v[i]), _mm256_extractf128_ps(v[i], 1));
    _mm_storeu_ps(sums, _mm_hadd_ps(_mm_hadd_ps(four[0], four[1]), _mm_hadd_ps(four[2], four[3])));
}

#else
#error "these rows need AVX2, FMA and F16C"
#endif

constexpr int64_t STEP = CHAINS * LANES;  // values of one step of ggml_vec_dot_f16

struct Halves {  // rows of 16-bit floats; `stride` in values
    const uint16_t *data;
    int64_t stride;

    Halves from(int64_t row) const { return {data + row * stride, stride}; }
};

struct Products {
    float *data;
    int64_t stride;

    Products from(int64_t input, int64_t row) const { return {data + input * stride + row, stride}; }
};

inline double tail(const uint16_t *matrix, const uint16_t *input, int64_t from, int64_t to, float sum) {
    double total = sum;
    for (int64_t i = from; i < to; ++i) {
        const float product = _cvtsh_ss(matrix[i]) * _cvtsh_ss(input[i]);
        total += static_cast<double>(product);
    }
    return total;
}

// W rows of the matrix times N inputs: sums FROM to TO of the four.
template <int W, int N, int FROM, int TO>
inline __attribute__((always_inline)) void add_products(
    Halves matrix, Halves inputs, int64_t whole, Vector (&sum)[W][N][CHAINS]) {
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
            for (int c = FROM; c < TO; ++c) sum[w][n][c] = zero();
    for (int64_t at = 0; at < whole; at += STEP) {
        if constexpr (FROM == 0) {  // the W rows follow each other in memory: fetch them in that order
            const char *next = reinterpret_cast<const char *>(matrix.data + W * at) + AHEAD;
#pragma GCC unroll 8
            for (int64_t line = 0; line < W * STEP * 2; line += LINE) _mm_prefetch(next + line, _MM_HINT_T0);
        }
#pragma GCC unroll 4
        for (int c = FROM; c < TO; ++c) {
            Vector weights[W];
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) weights[w] = load(matrix.data + w * matrix.stride + at + c * LANES);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                const Vector input = load(inputs.data + n * inputs.stride + at + c * LANES);
#pragma GCC unroll 8
                for (int w = 0; w < W; ++w) sum[w][n][c] = multiply_add(weights[w], input, sum[w][n][c]);
            }
        }
    }
}

template <int W, int N>
void multiply_tile(Halves matrix, Halves inputs, int64_t n_values, Products out) {
    constexpr int FOURS = (W * N + 3) / 4 * 4;
    const int64_t whole = n_values / STEP * STEP;
    Vector sum[W][N][CHAINS];
    if constexpr (W * N * CHAINS <= MOST_SUMS) {
        add_products<W, N, 0, CHAINS>(matrix, inputs, whole, sum);
    } else {  // two sums at a time; the second pass finds the rows in the cache
        add_products<W, N, 0, 2>(matrix, inputs, whole, sum);
        add_products<W, N, 2, CHAINS>(matrix, inputs, whole, sum);
    }
    Vector all[FOURS] = {};
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            all[w * N + n] = add(add(sum[w][n][0], sum[w][n][2]), add(sum[w][n][1], sum[w][n][3]));
    float sums[FOURS];
    for (int i = 0; i < FOURS; i += 4) sum_lanes(all + i, sums + i);
    for (int w = 0; w < W; ++w)
        for (int n = 0; n < N; ++n)
            out.data[n * out.stride + w] = static_cast<float>(
                tail(matrix.data + w * matrix.stride, inputs.data + n * inputs.stride, whole, n_values, sums[w * N + n]));
}

template <int N>
void multiply_panel(Halves matrix, int64_t n_rows, Halves inputs, int64_t n_values, Products out) {
    int64_t row = 0;
    const bool few = N * 2 * CHAINS <= MOST_SUMS;
    if (LANES == 16 && !(few && matrix.stride * 2 % SAME_SETS == 0))
        for (; row + 2 <= n_rows; row += 2) multiply_tile<2, N>(matrix.from(row), inputs, n_values, out.from(0, row));
    for (; row < n_rows; ++row) multiply_tile<1, N>(matrix.from(row), inputs, n_values, out.from(0, row));
}

void multiply(int64_t n_inputs, Halves matrix, int64_t n_rows, Halves inputs, int64_t n_values, Products out) {
    switch (n_inputs) {
    case 1: return multiply_panel<1>(matrix, n_rows, inputs, n_values, out);
    case 2: return multiply_panel<2>(matrix, n_rows, inputs, n_values, out);
    case 3: return multiply_panel<3>(matrix, n_rows, inputs, n_values, out);
#if defined(__AVX512F__)
    case 4: return multiply_panel<4>(matrix, n_rows, inputs, n_values, out);
    case 5: return multiply_panel<5>(matrix, n_rows, inputs, n_values, out);
    case 6: return multiply_panel<6>(matrix, n_rows, inputs, n_values, out);
#endif
    default: return;
    }
}

// The inputs of one thread, at a distance that keeps them out of each other's way in the cache.
Halves spread(Halves inputs, int64_t n_inputs, int64_t n_values) {
    thread_local std::unique_ptr<uint16_t[]> values;
    thread_local int64_t size = 0;
    const int64_t stride = n_values + PADDING;
    if (size < n_inputs * stride) {
        size = 0;
        values.reset(new (std::nothrow) uint16_t[static_cast<size_t>(n_inputs * stride)]);
        if (!values) return inputs;
        size = n_inputs * stride;
    }
    for (int64_t n = 0; n < n_inputs; ++n)
        std::copy_n(inputs.data + n * inputs.stride, n_values, values.get() + n * stride);
    return {values.get(), stride};
}

}  // namespace

void multiply_f16(const Share &share, const BlockProduct &product) {
    constexpr int64_t GROUP = 16;  // matrix rows that all panels read while they are in the cache
    const int64_t from = product.n_rows * share.index / share.of, to = product.n_rows * (share.index + 1) / share.of;
    const int64_t n_values = product.n_blocks;
    const Halves matrix{static_cast<const uint16_t *>(product.matrix), product.matrix_stride};
    const Halves given{static_cast<const uint16_t *>(product.inputs), product.inputs_stride};
    const Halves inputs = spread(given, product.n_inputs, n_values);
    const Products out{product.out, product.out_stride};
    const int64_t n_panels = (product.n_inputs + PANEL - 1) / PANEL;
    for (int64_t row = from; row < to; row += GROUP) {
        for (int64_t panel = 0; panel < n_panels; ++panel) {
            const int64_t first = product.n_inputs * panel / n_panels, end = product.n_inputs * (panel + 1) / n_panels;
            multiply(end - first, matrix.from(row), std::min(GROUP, to - row), inputs.from(first), n_values,
                     out.from(first, row));
        }
    }
}
