// Repacked Q4_K matrices times one row or groups of four, each with the bits that ggml (0.25) gives for a single row.
//
// ggml lays eight rows of a Q4_K matrix side by side (block_q4_Kx8). Its kernel for groups of four adds in another order
// than the one for a single row (ggml_gemv_q4_K_8x8_q8_K), which this file follows. The sum over a block of 256 values is
// a whole number, so its order is free: vpdpbusd multiplies the unsigned 4-bit values, and vpdpwssd the sums of each 32
// by their scale. Only what follows is rounded: one multiply-add a block for the scales, and one for the minima.

#include "repacked.h"

#ifdef EDGEINFER_VNNI

#include <immintrin.h>

namespace {

constexpr int64_t BLOCK = 256;     // values of a block
constexpr int64_t INPUT = 292;     // bytes of a block of one input: a float, 256 values, 16 sums of 16 values
constexpr int64_t WEIGHTS = 1152;  // bytes of block_q4_Kx8: 16-bit scales of scales and of minima, these, the values
constexpr int64_t SCALES = 32, VALUES = 128;  // where scales and minima, and values, begin
constexpr int PAIRS = 4;           // of parts of 32 values, in a block
constexpr int MOST_TOGETHER = 8;   // inputs at once

// One of ROWS inputs whose blocks lie together: 1 (block_q8_K), or 4 (block_q8_Kx4), which take turns every 8 bytes.
template <int ROWS>
struct Block {
    const char *start;
    int row;

    float scale() const {
        float value;
        std::memcpy(&value, start + 4 * row, sizeof value);
        return value;
    }
    int64_t eight_values(int64_t index) const { return load_8(start + 4 * ROWS + 8 * ROWS * index + 8 * row); }
    int64_t sums_of(int pair) const { return load_8(start + 260 * ROWS + 8 * ROWS * pair + 8 * row); }
};

template <int ROWS>
struct Inputs {
    const char *data;
    int64_t n_blocks;

    Block<ROWS> at(int input, int64_t block) const {
        return {data + (input / ROWS * n_blocks + block) * ROWS * INPUT, input % ROWS};
    }
};

struct Factors {  // 16 bits, by pair of parts; in each 128 bits those of two matrix rows
    __m512i scales[PAIRS];  // each twice: first part of both rows, second part of both
    __m512i minima[PAIRS];  // each twice: both parts of the first row, both of the second
};

// 12 bytes a part: 6 bits of the scales of four rows and of their minima, then 4 bits of the scales and the minima of
// the other rows, whose upper bits are above those 6.
inline Factors unpack_factors(const char *packed) {
    const __m512i low_6 = _mm512_set1_epi8(0x3F), low_4 = _mm512_set1_epi8(0x0F);
    const __m512i third_words = _mm512_set_epi32(0, 0, 0, 0, 0, 11, 11, 0, 8, 8, 0, 5, 5, 0, 2, 2);
    const __m512i shifts = _mm512_set_epi32(0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0, 4, 0, 0, 4, 0);
    const __m512i of_rows = _mm512_set_epi32(20, 17, 19, 16, 20, 17, 19, 16, 4, 1, 3, 0, 4, 1, 3, 0);
    const __m128i scales = _mm_set_epi8(-1, 5, -1, 5, -1, 4, -1, 4, -1, 1, -1, 1, -1, 0, -1, 0);
    const __m128i minima = _mm_set_epi8(-1, 13, -1, 13, -1, 9, -1, 9, -1, 12, -1, 12, -1, 8, -1, 8);
    const auto for_all_rows = [](__m128i of_two) {
        return _mm512_broadcast_i64x4(_mm256_set_m128i(_mm_add_epi8(of_two, _mm_set1_epi16(2)), of_two));
    };
    const __m512i take_scales = for_all_rows(scales), take_minima = for_all_rows(minima);
    constexpr int SELECT = 0xCA;  // a ? b : c
    Factors found;
#pragma GCC unroll 4
    for (int pair = 0; pair < PAIRS; ++pair) {
        const __m512i words = _mm512_loadu_si512(packed + 48 * (pair / 2));
        const __m512i lower = _mm512_srlv_epi32(_mm512_permutexvar_epi32(third_words, words), shifts);
        const __m512i others = _mm512_ternarylogic_epi32(low_4, lower, _mm512_srli_epi32(words, 2), SELECT);
        const __m512i these = _mm512_add_epi32(of_rows, _mm512_set1_epi32(6 * (pair % 2)));
        const __m512i bytes = _mm512_and_si512(_mm512_permutex2var_epi32(words, these, others), low_6);
        found.scales[pair] = _mm512_shuffle_epi8(bytes, take_scales);
        found.minima[pair] = _mm512_shuffle_epi8(bytes, take_minima);
    }
    return found;
}

// 8 rows of the matrix times N inputs. Sums are in the order of `both`: in each 128 bits, the totals of two rows, then
// what their minima take away.
template <int ROWS, int N>
inline __attribute__((always_inline)) void multiply_tile(const char *matrix, const Inputs<ROWS> &inputs, float *out,
                                                         int64_t stride) {
    const __m512i low = _mm512_set1_epi8(0x0F), zero = _mm512_setzero_si512();
    const __m256i by_rows = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m512 sums[N];
    for (int n = 0; n < N; ++n) sums[n] = _mm512_setzero_ps();
    for (int64_t block = 0; block < inputs.n_blocks; ++block, matrix += WEIGHTS) {
        const Factors factors = unpack_factors(matrix + SCALES);
        __m512i totals[N], minima[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) totals[n] = minima[n] = zero;
#pragma GCC unroll 4
        for (int pair = 0; pair < PAIRS; ++pair) {
            __m512i first[4], second[4];  // parts of the pair: 8 values of each row
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const __m512i packed = _mm512_loadu_si512(matrix + VALUES + 64 * (4 * pair + i));
                first[i] = _mm512_and_si512(packed, low);
                second[i] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
            }
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                const Block<ROWS> input = inputs.at(n, block);
                __m512i of_first = zero, of_second = zero;  // at most 4 * 4 * 15 * 127: 16 bits
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    const __m512i a = _mm512_set1_epi64(input.eight_values(8 * pair + i));
                    const __m512i b = _mm512_set1_epi64(input.eight_values(8 * pair + 4 + i));
                    of_first = _mm512_dpbusd_epi32(of_first, first[i], a);
                    of_second = _mm512_dpbusd_epi32(of_second, second[i], b);
                }
                const __m512i both = _mm512_packs_epi32(of_first, of_second);
                const __m512i sums_of_inputs = _mm512_set1_epi64(input.sums_of(pair));
                totals[n] = _mm512_dpwssd_epi32(totals[n], both, factors.scales[pair]);
                minima[n] = _mm512_dpwssd_epi32(minima[n], sums_of_inputs, factors.minima[pair]);
            }
        }
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(matrix));
        const __m512 scales = _mm512_cvtph_ps(_mm256_permutevar8x32_epi32(halves, by_rows));
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const __m512 t = _mm512_castsi512_ps(totals[n]), m = _mm512_castsi512_ps(minima[n]);
            const __m512i both = _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(t, m, 0x84)),
                                                  _mm512_castps_si512(_mm512_shuffle_ps(t, m, 0xDE)));
            const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(inputs.at(n, block).scale()));
            sums[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), scale, sums[n]);
        }
    }
    const __m512i in_order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    for (int n = 0; n < N; ++n) {
        const __m512d ordered = _mm512_permutexvar_pd(in_order, _mm512_castps_pd(sums[n]));
        const __m256d total = _mm512_castpd512_pd256(ordered), taken = _mm512_extractf64x4_pd(ordered, 1);
        _mm256_storeu_ps(out + n * stride, _mm256_sub_ps(_mm256_castpd_ps(total), _mm256_castpd_ps(taken)));
    }
}

template <int ROWS, int N>
void multiply(const RepackedProduct &product, const Panel &panel) {
    const int64_t n_blocks = product.n_values / BLOCK;
    const auto *matrix = static_cast<const char *>(product.matrix), *data = static_cast<const char *>(product.inputs);
    float *out = product.out + panel.input * product.out_stride;
    for (int64_t row = panel.row; row < panel.row + panel.n_rows; row += SIDE)
        multiply_tile<ROWS, N>(matrix + row / SIDE * n_blocks * WEIGHTS,
                               Inputs<ROWS>{data + panel.input * n_blocks * INPUT, n_blocks}, out + row,
                               product.out_stride);
}

// The first of the values that are furthest from 0.
inline float find_peak(const float *values) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t at = 0; at < BLOCK; at += 16) largest = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(values + at)), largest);
    const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int64_t at = 0; at < BLOCK; at += 16) {
        const __m512 magnitudes = _mm512_abs_ps(_mm512_loadu_ps(values + at));
        const __mmask16 found = _mm512_cmp_ps_mask(magnitudes, peak, _CMP_EQ_OQ);
        if (found) return values[at + __builtin_ctz(found)];
    }
    return 0;
}

}  // namespace

bool multiply_q4_K(const RepackedProduct &product) {
    if (product.n_inputs == 1) {
        multiply<1, 1>(product, {0, product.n_rows, 0});
        return true;
    }
    for_each_panel(product, MOST_TOGETHER, [&](const Panel &panel, bool most) {
        const auto kernel = most ? multiply<4, MOST_TOGETHER> : multiply<4, 4>;
        kernel(product, panel);
    });
    return true;
}

void quantize_four_q8_K(const float *inputs, void *blocks, int64_t n_values) {
    auto *block = static_cast<char *>(blocks);
    for (int64_t at = 0; at < n_values; at += BLOCK, block += 4 * INPUT) {
        for (int row = 0; row < 4; ++row) {
            const float *values = inputs + row * n_values + at;
            const float peak = find_peak(values), inverse = peak != 0 ? -127.0f / peak : 0, scale = peak != 0 ? 1 / inverse : 0;
            std::memcpy(block + 4 * row, &scale, sizeof scale);
            for (int64_t i = 0; i < 16; ++i) {
                const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(values + 16 * i), _mm512_set1_ps(inverse));
                const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
                const auto sum = static_cast<int16_t>(_mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes)));
                _mm_storel_epi64(reinterpret_cast<__m128i *>(block + 16 + 64 * i + 8 * row), bytes);
                _mm_storeh_pd(reinterpret_cast<double *>(block + 48 + 64 * i + 8 * row), _mm_castsi128_pd(bytes));
                std::memcpy(block + 1040 + 32 * (i / 4) + 8 * row + 2 * (i % 4), &sum, sizeof sum);
            }
        }
    }
}

#else

bool multiply_q4_K(const RepackedProduct &) { return false; }
void quantize_four_q8_K(const float *, void *, int64_t) {}

#endif
