// Repacked Q4_0 matrices times one row or groups of four, with the bits of ggml's kernels (0.25).
//
// ggml lays eight rows of a Q4_0 matrix side by side (block_q4_0x8). Its kernels for x86 then split each product of two
// signed bytes into a sign and a product of an unsigned byte. Here the 4-bit values stay unsigned (value + 8), which
// vpdpbusd takes as they are, and the sum starts at -8 times the sum of the inputs. The sum of a block is a whole
// number, so it is the same; it is scaled and added up as ggml does it, so the results are equal bit for bit.

#include "kernels.h"

#ifdef EDGEINFER_VNNI

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace {

constexpr int64_t BLOCK = 32;     // values of a block
constexpr int64_t SIDE = 8;       // matrix rows side by side
constexpr int64_t INPUT = 34;     // bytes of a block of one input: its values and a 16-bit scale
constexpr int64_t WEIGHTS = 144;  // bytes of block_q4_0x8: eight 16-bit scales, then 8 bytes of each row, twice
constexpr int MOST_TOGETHER = 8;  // inputs at once
constexpr int64_t LINE = 64;      // bytes of a cache line
constexpr int64_t AHEAD = 4608;   // bytes: how far in front the matrix is fetched

// Inputs in blocks of 32 bytes with a 16-bit scale: four rows in turn, 8 values each (block_q8_0x4), or one (block_q8_0).
struct Fours {
    static constexpr int ROWS = 4;
};
struct Single {
    static constexpr int ROWS = 1;
};
template <class Layout>
constexpr int64_t input_bytes = Layout::ROWS * INPUT;

struct Start {  // of the sum over a block, and its scale
    int64_t sums;  // two 32-bit sums: each of the two lanes of a matrix row sees half of the values
    float scale;
};

struct Inputs {
    const char *data;
    const Start *starts;  // [input][block]
};

template <class Layout>
const char *values_of(const char *inputs, int64_t input, int64_t n_blocks) {
    const int64_t group = input / Layout::ROWS, within = input % Layout::ROWS;
    return inputs + group * n_blocks * input_bytes<Layout> + 2 * Layout::ROWS + 8 * within;
}

inline float half_to_float(const char *half) {
    uint16_t bits;
    std::memcpy(&bits, half, sizeof bits);
    return _cvtsh_ss(bits);
}

inline int64_t load_8(const char *bytes) {
    int64_t value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

template <class Layout>
void find_starts(const char *inputs, int64_t n_inputs, int64_t n_blocks, Start *starts) {
    const __m256i eights = _mm256_set1_epi8(8);
    for (int64_t input = 0; input < n_inputs; ++input) {
        const char *values = values_of<Layout>(inputs, input, n_blocks);
        const char *scale = values - 2 * Layout::ROWS - 6 * (input % Layout::ROWS);
        for (int64_t block = 0; block < n_blocks; ++block, values += input_bytes<Layout>, scale += input_bytes<Layout>) {
            const __m256i all = _mm256_set_epi64x(load_8(values + 24 * Layout::ROWS), load_8(values + 16 * Layout::ROWS),
                                                  load_8(values + 8 * Layout::ROWS), load_8(values));
            const __m256i eight = _mm256_dpbusd_epi32(_mm256_setzero_si256(), eights, all);
            const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
            const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
            *starts++ = {_mm_cvtsi128_si64(_mm_sub_epi32(_mm_setzero_si128(), two)), half_to_float(scale)};
        }
    }
}

struct Unpacked {  // 8 matrix rows: values 0 to 7, 8 to 15, 16 to 23 and 24 to 31 of each
    __m512i parts[4];
};

inline Unpacked unpack(const char *block) {
    const __m512i low = _mm512_set1_epi8(0x0F), flip = _mm512_set1_epi8(0x08);
    constexpr int AND_XOR = 0x6A;  // (a & b) ^ c: ggml keeps the values with their highest bit flipped
    Unpacked found;
    for (int half = 0; half < 2; ++half) {
        const __m512i packed = _mm512_loadu_si512(block + 2 * SIDE + 64 * half);
        found.parts[half] = _mm512_ternarylogic_epi32(packed, low, flip, AND_XOR);
        found.parts[2 + half] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(packed, 4), low, flip, AND_XOR);
    }
    return found;
}

inline __m512 scales_of(const char *first, const char *second) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i *>(first));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i *>(second));
    return _mm512_cvtph_ps(_mm256_set_m128i(_mm_unpackhi_epi32(a, b), _mm_unpacklo_epi32(a, b)));
}

// 16 matrix rows (`second` may be `first`) times N inputs. In each 128 bits: two rows of the first 8, two of the second.
template <class Layout, int N>
inline __attribute__((always_inline)) void multiply_tile(const char *first, const char *second, const Inputs &inputs,
                                                         int64_t n_blocks, __m512 (&sums)[N]) {
    const char *values[N];
    for (int n = 0; n < N; ++n) {
        values[n] = values_of<Layout>(inputs.data, n, n_blocks);
        sums[n] = _mm512_setzero_ps();
    }
    const char *next = first + AHEAD;  // both halves follow each other in memory: they are fetched in that order
    for (int64_t block = 0; block < n_blocks; ++block, first += WEIGHTS, second += WEIGHTS, next += 2 * WEIGHTS) {
        for (int64_t line = 0; line < 2 * WEIGHTS; line += LINE) _mm_prefetch(next + line, _MM_HINT_T0);
        const Unpacked a = unpack(first), b = unpack(second);
        const __m512 scales = scales_of(first, second);
        const int64_t at = block * input_bytes<Layout>;
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const Start &start = inputs.starts[n * n_blocks + block];
            __m512i of_a = _mm512_set1_epi64(start.sums), of_b = of_a;
#pragma GCC unroll 4
            for (int part = 0; part < 4; ++part) {
                const __m512i eight = _mm512_set1_epi64(load_8(values[n] + at + part * 8 * Layout::ROWS));
                of_a = _mm512_dpbusd_epi32(of_a, a.parts[part], eight);
                of_b = _mm512_dpbusd_epi32(of_b, b.parts[part], eight);
            }
            const __m512 x = _mm512_castsi512_ps(of_a), y = _mm512_castsi512_ps(of_b);
            const __m512i total = _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88)),
                                                   _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xDD)));
            sums[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), _mm512_mul_ps(scales, _mm512_set1_ps(start.scale)),
                                      sums[n]);
        }
    }
}

inline __m512 in_order(__m512 sums) {
    return _mm512_castpd_ps(_mm512_permutexvar_pd(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), _mm512_castps_pd(sums)));
}

template <class Layout, int N>
void multiply(const char *matrix, int64_t n_rows, const Inputs &inputs, int64_t n_blocks, float *out, int64_t stride) {
    const int64_t bytes = n_blocks * WEIGHTS;
    __m512 sums[N];
    int64_t row = 0;
    for (; row + 2 * SIDE <= n_rows; row += 2 * SIDE, matrix += 2 * bytes) {
        multiply_tile<Layout, N>(matrix, matrix + bytes, inputs, n_blocks, sums);
        for (int n = 0; n < N; ++n) _mm512_storeu_ps(out + n * stride + row, in_order(sums[n]));
    }
    if (row < n_rows) {
        multiply_tile<Layout, N>(matrix, matrix, inputs, n_blocks, sums);
        for (int n = 0; n < N; ++n) _mm256_storeu_ps(out + n * stride + row, _mm512_castps512_ps256(in_order(sums[n])));
    }
}

Start *room_for(int64_t n) {
    thread_local std::unique_ptr<Start[]> starts;
    thread_local int64_t size = 0;
    if (size < n) {
        starts.reset(new (std::nothrow) Start[static_cast<size_t>(n)]);
        size = starts ? n : 0;
    }
    return starts.get();
}

}  // namespace

bool multiply_q4_0(const Q4_0Product &product) {
    constexpr int64_t GROUP = 64;  // matrix rows that all inputs read while they are in the cache
    const int64_t n_blocks = product.n_values / BLOCK;
    Start *starts = room_for(product.n_inputs * n_blocks);
    if (!starts) return false;
    const auto *matrix = static_cast<const char *>(product.matrix), *data = static_cast<const char *>(product.inputs);
    if (product.n_inputs == 1) {
        find_starts<Single>(data, 1, n_blocks, starts);
        multiply<Single, 1>(matrix, product.n_rows, {data, starts}, n_blocks, product.out, 0);
        return true;
    }
    find_starts<Fours>(data, product.n_inputs, n_blocks, starts);
    for (int64_t row = 0; row < product.n_rows; row += GROUP) {
        const int64_t n_rows = std::min(GROUP, product.n_rows - row);
        const char *group = matrix + row / SIDE * n_blocks * WEIGHTS;
        for (int64_t input = 0; input < product.n_inputs;) {
            const Inputs inputs{data + input * n_blocks * INPUT, starts + input * n_blocks};
            float *out = product.out + input * product.out_stride + row;
            const bool many = product.n_inputs - input >= MOST_TOGETHER;
            const auto kernel = many ? multiply<Fours, MOST_TOGETHER> : multiply<Fours, Fours::ROWS>;
            kernel(group, n_rows, inputs, n_blocks, out, product.out_stride);
            input += many ? MOST_TOGETHER : Fours::ROWS;
        }
    }
    return true;
}

#else

bool multiply_q4_0(const Q4_0Product &) { return false; }

#endif
