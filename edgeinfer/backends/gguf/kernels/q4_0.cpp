// Repacked Q4_0 matrices times one row or groups of four, with the bits of ggml's kernels (0.25).
//
// ggml lays eight rows of a Q4_0 matrix side by side (block_q4_0x8). Its kernels for x86 then split each product of two
// signed bytes into a sign and a product of an unsigned byte. Here the 4-bit values stay unsigned (value + 8), which
// vpdpbusd and vpmaddubsw take as they are, and the sum starts at -8 times the sum of the inputs. The sum of a block is
// a whole number, so it is the same; it is scaled and added up as ggml does it, so the results are equal bit for bit.

#include "repacked.h"

#include <immintrin.h>

#include <memory>
#include <new>

namespace {

constexpr int64_t BLOCK = 32;     // values of a block
constexpr int64_t INPUT = 34;     // bytes of a block of one input: its values and a 16-bit scale
constexpr int64_t WEIGHTS = 144;  // bytes of block_q4_0x8: eight 16-bit scales, then 8 bytes of each row, twice
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

// Four bytes of the inputs times four unsigned ones, which are at most 15.
inline __m256i sums_of_four(__m256i unsigned_bytes, __m256i bytes) {
    return _mm256_madd_epi16(_mm256_set1_epi16(1), _mm256_maddubs_epi16(unsigned_bytes, bytes));
}

template <class Layout>
void find_starts(const char *inputs, int64_t n_inputs, int64_t n_blocks, Start *starts) {
    for (int64_t input = 0; input < n_inputs; ++input) {
        const char *values = values_of<Layout>(inputs, input, n_blocks);
        const char *scale = values - 2 * Layout::ROWS - 6 * (input % Layout::ROWS);
        for (int64_t block = 0; block < n_blocks; ++block, values += input_bytes<Layout>, scale += input_bytes<Layout>) {
            const __m256i all = _mm256_set_epi64x(load_8(values + 24 * Layout::ROWS), load_8(values + 16 * Layout::ROWS),
                                                  load_8(values + 8 * Layout::ROWS), load_8(values));
            const __m256i eight = sums_of_four(_mm256_set1_epi8(8), all);
            const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
            const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
            *starts++ = {_mm_cvtsi128_si64(_mm_sub_epi32(_mm_setzero_si128(), two)), half_to_float(scale)};
        }
    }
}

inline void fetch_ahead(const char *matrix, int64_t n_bytes) {
    for (int64_t line = 0; line < n_bytes; line += LINE) _mm_prefetch(matrix + AHEAD + line, _MM_HINT_T0);
}

constexpr int EVEN_PAIRS_FIRST = 0xD8;

// 8 rows of the matrix times N inputs. Sums are in the order of `total`: rows 0, 1, 4, 5, 2, 3, 6, 7.
template <class Layout, int N>
void multiply_8(const char *matrix, const Inputs &inputs, int64_t n_blocks, float *out, int64_t stride) {
    const __m256i low = _mm256_set1_epi8(0x0F), flip = _mm256_set1_epi8(static_cast<char>(0x88));
    const char *values[N];
    __m256 sums[N];
    for (int n = 0; n < N; ++n) {
        values[n] = values_of<Layout>(inputs.data, n, n_blocks);
        sums[n] = _mm256_setzero_ps();
    }
    for (int64_t block = 0; block < n_blocks; ++block, matrix += WEIGHTS) {
        fetch_ahead(matrix, WEIGHTS);
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(matrix));
        const __m256 scales = _mm256_cvtph_ps(_mm_shuffle_epi32(halves, EVEN_PAIRS_FIRST));
        __m256i sums_of_rows[N][2];  // 16 bits: four parts of two products, each at most 2 * 15 * 127
#pragma GCC unroll 4
        for (int quarter = 0; quarter < 4; ++quarter) {  // four rows; values 0 to 7 and 16 to 23, then the others
            const int four = quarter % 2, half = quarter / 2;
            const auto *bytes = reinterpret_cast<const __m256i *>(matrix + 2 * SIDE + 32 * quarter);
            const __m256i packed = _mm256_xor_si256(_mm256_loadu_si256(bytes), flip);  // ggml flips the highest bits
            const __m256i lower = _mm256_and_si256(packed, low);
            const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                const char *at = values[n] + block * input_bytes<Layout> + half * 8 * Layout::ROWS;
                const __m256i sum = _mm256_add_epi16(
                    _mm256_maddubs_epi16(lower, _mm256_set1_epi64x(load_8(at))),
                    _mm256_maddubs_epi16(upper, _mm256_set1_epi64x(load_8(at + 16 * Layout::ROWS))));
                sums_of_rows[n][four] = half ? _mm256_add_epi16(sums_of_rows[n][four], sum) : sum;
            }
        }
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const Start &start = inputs.starts[n * n_blocks + block];
            const __m256i begin = _mm256_set1_epi64x(start.sums), ones = _mm256_set1_epi16(1);
            const __m256i total = _mm256_hadd_epi32(_mm256_add_epi32(begin, _mm256_madd_epi16(sums_of_rows[n][0], ones)),
                                                    _mm256_add_epi32(begin, _mm256_madd_epi16(sums_of_rows[n][1], ones)));
            sums[n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(scales, _mm256_set1_ps(start.scale)),
                                      sums[n]);
        }
    }
    for (int n = 0; n < N; ++n) {
        const __m256d ordered = _mm256_permute4x64_pd(_mm256_castps_pd(sums[n]), EVEN_PAIRS_FIRST);
        _mm256_storeu_ps(out + n * stride, _mm256_castpd_ps(ordered));
    }
}

#ifdef EDGEINFER_VNNI

constexpr int MOST_TOGETHER = 8;  // inputs at once

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

// 16 rows of the matrix times N inputs. Sums are in the order of `total`: in each 128 bits, two rows of the first 8 and
// two of the second.
template <class Layout, int N>
void multiply_16(const char *matrix, const Inputs &inputs, int64_t n_blocks, float *out, int64_t stride) {
    const char *first = matrix, *second = matrix + n_blocks * WEIGHTS;
    const char *values[N];
    __m512 sums[N];
    for (int n = 0; n < N; ++n) {
        values[n] = values_of<Layout>(inputs.data, n, n_blocks);
        sums[n] = _mm512_setzero_ps();
    }
    for (int64_t block = 0; block < n_blocks; ++block, first += WEIGHTS, second += WEIGHTS) {
        fetch_ahead(matrix + 2 * WEIGHTS * block, 2 * WEIGHTS);
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
    const __m512i in_order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    for (int n = 0; n < N; ++n) {
        const __m512d ordered = _mm512_permutexvar_pd(in_order, _mm512_castps_pd(sums[n]));
        _mm512_storeu_ps(out + n * stride, _mm512_castpd_ps(ordered));
    }
}

template <class Layout, int N>
void multiply(const char *matrix, int64_t n_rows, const Inputs &inputs, int64_t n_blocks, float *out, int64_t stride) {
    const int64_t bytes = n_blocks * WEIGHTS;  // of 8 rows
    int64_t row = 0;
    if constexpr (N > 1)  // a single input waits for memory, and two places at once in it take longer
        for (; row + 16 <= n_rows; row += 16) multiply_16<Layout, N>(matrix + row / 8 * bytes, inputs, n_blocks, out + row, stride);
    for (; row < n_rows; row += 8) multiply_8<Layout, N>(matrix + row / 8 * bytes, inputs, n_blocks, out + row, stride);
}

#else

constexpr int MOST_TOGETHER = 4;  // inputs at once

template <class Layout, int N>
void multiply(const char *matrix, int64_t n_rows, const Inputs &inputs, int64_t n_blocks, float *out, int64_t stride) {
    for (int64_t row = 0; row < n_rows; row += 8)
        multiply_8<Layout, N>(matrix + row / 8 * n_blocks * WEIGHTS, inputs, n_blocks, out + row, stride);
}

#endif

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

bool multiply_q4_0(const RepackedProduct &product) {
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
    for_each_panel(product, MOST_TOGETHER, [&](const Panel &panel, bool most) {
        const Inputs inputs{data + panel.input * n_blocks * INPUT, starts + panel.input * n_blocks};
        float *out = product.out + panel.input * product.out_stride + panel.row;
        const auto kernel = most ? multiply<Fours, MOST_TOGETHER> : multiply<Fours, Fours::ROWS>;
        kernel(matrix + panel.row / SIDE * n_blocks * WEIGHTS, panel.n_rows, inputs, n_blocks, out, product.out_stride);
    });
    return true;
}
