// Q5_K and Q6_K matrices times any number of rows, with the bits of ggml's products of two rows.
//
// ggml (0.25) multiplies a matrix row with an input in ggml_vec_dot_q5_K_q8_K and ggml_vec_dot_q6_K_q8_K. A block of 256
// values is eight groups of 32; the same four values of each group are a part, whose products are scaled and added up as
// whole numbers. So their order is free, and only what follows is rounded: one multiply-add a part, and one for the minima.
// A block of 16 matrix rows is unpacked once for all inputs, whose sums are in memory meanwhile.

#include "side_by_side.h"

#ifdef EDGEINFER_VNNI

#include <cstddef>
#include <type_traits>

namespace {

constexpr int GROUPS = 8;          // of a block
constexpr int64_t PASS = 64;       // inputs for which a block is unpacked once: their sums stay in the first cache
constexpr int64_t NEAR = 1 << 20;  // bytes of inputs that stay in the second cache
constexpr int64_t CHUNK = 16;      // bytes of a row that are transposed at once

// ggml's blocks of 256 values
struct BlockQ5_K {
    uint16_t scale, minimum;
    uint8_t factors[12];  // of groups: 6 bits each
    uint8_t high[32];     // bit g of byte i: value i of group g
    uint8_t low[4][32];   // low halves: groups 0, 2, 4, 6; high halves: groups 1, 3, 5, 7
};
struct BlockQ6_K {
    struct {
        uint8_t bytes[2][32];
    } low[2];             // of each half: the low halves are groups 0 and 1, the high ones 2 and 3
    uint8_t high[2][32];  // of each half: two bits of each of its groups
    int8_t factors[16];   // of each 16 values
    uint16_t scale;
};
struct BlockQ8_K {
    float scale;
    int8_t values[GROUPS][PARTS][4];
    int16_t sums[PARTS][2];  // of each 16 values
};

template <int N_FACTORS>
struct Unpacked {  // a block of 16 matrix rows
    __m512i values[PARTS][GROUPS];       // unsigned
    __m512i factors[N_FACTORS][GROUPS];  // 16 bits, each twice: for all parts, or for each half of them
    __m512i of_sums[PARTS];              // what two sums of an input are multiplied with
    __m512 scale, minimum;
};

inline __m512i low_4(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(0x0F)); }
inline __m512i high_4(__m512i bytes) { return low_4(_mm512_srli_epi16(bytes, 4)); }

// The bits of `other` that `mask` has, above those of `value`.
inline __m512i add_bits(__m512i value, __m512i other, char mask) {
    constexpr int A_OR_B_AND_C = 0xF8;
    return _mm512_ternarylogic_epi32(value, other, _mm512_set1_epi8(mask), A_OR_B_AND_C);
}

// Bytes of each 32 bits in another order. 0x80: zero.
inline __m512i in_each_word(__m512i words, unsigned bytes) {
    const __m512i words_before = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
    return _mm512_shuffle_epi8(words, _mm512_add_epi8(_mm512_set1_epi32(bytes), words_before));
}

struct Q5_K {
    using Block = BlockQ5_K;
    using Unpacked = ::Unpacked<1>;
    static constexpr bool HAS_MINIMUM = true;

    static void unpack(const Rows &rows, int64_t block, Unpacked &out) {
        const int64_t start = block * sizeof(Block);
        for (int chunk = 0; chunk < 2; ++chunk) {
            __m512i high[4];
            transpose(rows, start + offsetof(Block, high) + CHUNK * chunk, high);
#pragma GCC unroll 4
            for (int pair = 0; pair < 4; ++pair) {
                __m512i both[4];
                transpose(rows, start + offsetof(Block, low) + 32 * pair + CHUNK * chunk, both);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    __m512i *groups = out.values[4 * chunk + i] + 2 * pair;
                    groups[0] = add_bits(low_4(both[i]), move_to_bit_4(high[i], 2 * pair), 0x10);
                    groups[1] = add_bits(high_4(both[i]), move_to_bit_4(high[i], 2 * pair + 1), 0x10);
                }
            }
        }
        unpack_factors(rows, start, out);
    }

    // A byte of each 32 bits, as two times 16 bits.
    static __m512i twice(__m512i words, int byte) {
        return in_each_word(words, 0x80 << 24 | byte << 16 | 0x80 << 8 | byte);
    }

    static __m512i move_to_bit_4(__m512i bytes, int bit) {
        return bit < 4 ? _mm512_slli_epi16(bytes, 4 - bit) : _mm512_srli_epi16(bytes, bit - 4);
    }

    // Four bytes each: the lower 6 bits of four scales, and of four minima; 4 bits of the other scales and minima, whose
    // upper bits are above those 6.
    static void unpack_factors(const Rows &rows, int64_t start, Unpacked &out) {
        __m512i words[4];
        transpose(rows, start, words);
        const __m512i low_6 = _mm512_set1_epi8(0x3F);
        const auto others = [&](__m512i lower, __m512i upper) {
            return add_bits(lower, _mm512_srli_epi32(upper, 2), 0x30);
        };
        const __m512i scales[2] = {_mm512_and_si512(words[1], low_6), others(low_4(words[3]), words[1])};
        const __m512i minima[2] = {_mm512_and_si512(words[2], low_6), others(high_4(words[3]), words[2])};
#pragma GCC unroll 8
        for (int group = 0; group < GROUPS; ++group) {
            out.factors[0][group] = twice(scales[group / 4], group % 4);
            out.of_sums[group] = twice(minima[group / 4], group % 4);
        }
        out.scale = widen(_mm512_cvtepi32_epi16(words[0]));
        out.minimum = widen(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words[0], 16)));
    }
};

struct Q6_K {
    using Block = BlockQ6_K;
    using Unpacked = ::Unpacked<2>;
    static constexpr bool HAS_MINIMUM = false;

    static void unpack(const Rows &rows, int64_t block, Unpacked &out) {
        const int64_t start = block * sizeof(Block);
        for (int half = 0; half < 2; ++half) {
            for (int chunk = 0; chunk < 2; ++chunk) {
                __m512i first[4], second[4], high[4];
                const int64_t low = start + offsetof(Block, low) + 64 * half + CHUNK * chunk;
                transpose(rows, low, first);
                transpose(rows, low + 32, second);
                transpose(rows, start + offsetof(Block, high) + 32 * half + CHUNK * chunk, high);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    __m512i *groups = out.values[4 * chunk + i] + 4 * half;
                    groups[0] = add_bits(low_4(first[i]), _mm512_slli_epi16(high[i], 4), 0x30);
                    groups[1] = add_bits(low_4(second[i]), _mm512_slli_epi16(high[i], 2), 0x30);
                    groups[2] = add_bits(high_4(first[i]), high[i], 0x30);
                    groups[3] = add_bits(high_4(second[i]), _mm512_srli_epi16(high[i], 2), 0x30);
                }
            }
        }
        unpack_factors(rows, start, out);
    }

    static void unpack_factors(const Rows &rows, int64_t start, Unpacked &out) {
        __m512i factors[4], last[4];
        transpose(rows, start + offsetof(Block, factors), factors);
        transpose(rows, start + sizeof(Block) - CHUNK, last);
        const auto upper = [](__m512i words, int first, int second) {  // bytes as the upper ones of 16 bits
            return in_each_word(words, second << 24 | 0x80 << 16 | first << 8 | 0x80);
        };
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const int byte = 2 * i % 4;
            const __m512i words = factors[i / 2];
            out.factors[0][i] = _mm512_srai_epi16(upper(words, byte, byte), 8);
            out.factors[1][i] = _mm512_srai_epi16(upper(words, byte + 1, byte + 1), 8);
            const __m512i times_32 = _mm512_srai_epi16(upper(words, byte, byte + 1), 3);  // values are 32 too large
            out.of_sums[i] = _mm512_sub_epi16(_mm512_setzero_si512(), times_32);
        }
        out.scale = widen(_mm512_cvtepi32_epi16(_mm512_srli_epi32(last[3], 16)));
    }
};

struct Sums {  // of one input and 16 matrix rows
    __m512 parts[PARTS];
    __m512 minima;
};

inline __m512i every(const void *four_bytes) {
    int32_t value;
    std::memcpy(&value, four_bytes, sizeof value);
    return _mm512_set1_epi32(value);
}

template <class Format, int N>
inline __attribute__((always_inline)) void multiply_block(const typename Format::Unpacked &matrix,
                                                          const BlockQ8_K *inputs, int64_t stride, Sums *sums) {
    const __m512i zero = _mm512_setzero_si512();
    constexpr int FACTORS = sizeof(matrix.factors) / sizeof(matrix.factors[0]);
    __m512 scale[N];
    __m512i minima[N];
    for (int n = 0; n < N; ++n) {
        scale[n] = _mm512_mul_ps(matrix.scale, _mm512_set1_ps(inputs[n * stride].scale));
        minima[n] = zero;
    }
#pragma GCC unroll 1
    for (int part = 0; part < PARTS; ++part) {
        __m512i totals[N];
        for (int n = 0; n < N; ++n) {
            const __m512i of_sums = every(inputs[n * stride].sums[part]);
            if constexpr (Format::HAS_MINIMUM) {
                minima[n] = _mm512_dpwssd_epi32(minima[n], matrix.of_sums[part], of_sums);
                totals[n] = zero;
            } else {
                totals[n] = _mm512_dpwssd_epi32(zero, matrix.of_sums[part], of_sums);
            }
        }
#pragma GCC unroll 8
        for (int group = 0; group < GROUPS; ++group) {
            const __m512i values = matrix.values[part][group];
            const __m512i factors = matrix.factors[part * FACTORS / PARTS][group];
            for (int n = 0; n < N; ++n) {  // at most 2 * 63 * 127: 16 bits
                const __m512i products = _mm512_maddubs_epi16(values, every(inputs[n * stride].values[group][part]));
                totals[n] = _mm512_dpwssd_epi32(totals[n], products, factors);
            }
        }
        for (int n = 0; n < N; ++n)
            sums[n].parts[part] = _mm512_fmadd_ps(scale[n], _mm512_cvtepi32_ps(totals[n]), sums[n].parts[part]);
    }
    if constexpr (Format::HAS_MINIMUM) {
        for (int n = 0; n < N; ++n) {
            const __m512 less = _mm512_mul_ps(matrix.minimum, _mm512_set1_ps(-inputs[n * stride].scale));
            sums[n].minima = _mm512_fmadd_ps(less, _mm512_cvtepi32_ps(minima[n]), sums[n].minima);
        }
    }
}

// Some inputs times 16 matrix rows. The rows after them are fetched in small portions: a burst would hold up other loads.
template <class Format>
void add_up(const Rows &rows, const char *next, const BlockProduct &product, Sums *sums) {
    constexpr int64_t BYTES = SIDE * sizeof(typename Format::Block);
    const auto *inputs = static_cast<const BlockQ8_K *>(product.inputs);
    const int64_t stride = product.inputs_stride, n_inputs = product.n_inputs;
    std::fill_n(sums, n_inputs, Sums{});
    for (int64_t block = 0; block < product.n_blocks; ++block, next += BYTES) {
        typename Format::Unpacked unpacked;
        Format::unpack(rows, block, unpacked);
        int64_t n = 0;
        const auto multiply = [&](auto together) {
            for (; n_inputs - n >= together; n += together) {
                multiply_block<Format, together>(unpacked, inputs + n * stride + block, stride, sums + n);
                fetch(next + BYTES * n / n_inputs, next + BYTES * (n + together) / n_inputs);
            }
        };
        multiply(std::integral_constant<int, 8>());
        multiply(std::integral_constant<int, 4>());
        multiply(std::integral_constant<int, 3>());
        multiply(std::integral_constant<int, 2>());
        multiply(std::integral_constant<int, 1>());
    }
}

template <class Format>
void multiply_near(const Share &share, const BlockProduct &product) {
    Sums sums[PASS];
    const auto *matrix = static_cast<const char *>(product.matrix);
    const int64_t row_bytes = product.matrix_stride * sizeof(typename Format::Block);
    const int64_t n_groups = (product.n_rows + SIDE - 1) / SIDE;
    for (int64_t group = n_groups * share.index / share.of; group < n_groups * (share.index + 1) / share.of; ++group) {
        const int64_t row = group * SIDE, n_rows = std::min<int64_t>(SIDE, product.n_rows - row);
        const char *start = matrix + row * row_bytes;
        const Rows rows = rows_from(start, row_bytes, n_rows);
        const auto wanted = static_cast<__mmask16>((1u << n_rows) - 1);
        for (int64_t first = 0; first < product.n_inputs; first += PASS) {
            const BlockProduct part = part_of<BlockQ8_K>(product, first, PASS);
            add_up<Format>(rows, start + SIDE * row_bytes, part, sums);
            for (int64_t n = 0; n < part.n_inputs; ++n) {
                __m512 sum = add_parts(sums[n].parts);
                if constexpr (Format::HAS_MINIMUM) sum = _mm512_add_ps(sum, sums[n].minima);
                _mm512_mask_storeu_ps(part.out + n * part.out_stride + row, wanted, sum);
            }
        }
    }
}

template <class Format>
void multiply(const Share &share, const BlockProduct &product) {
    const int64_t bytes_of_pass = PASS * product.n_blocks * sizeof(BlockQ8_K);
    const int64_t most = PASS * std::max<int64_t>(1, NEAR / bytes_of_pass);
    for (int64_t first = 0; first < product.n_inputs; first += most)
        multiply_near<Format>(share, part_of<BlockQ8_K>(product, first, most));
}

}  // namespace

void multiply_q5_K(const Share &share, const BlockProduct &product) { multiply<Q5_K>(share, product); }
void multiply_q6_K(const Share &share, const BlockProduct &product) { multiply<Q6_K>(share, product); }

#else

void multiply_q5_K(const Share &, const BlockProduct &) {}
void multiply_q6_K(const Share &, const BlockProduct &) {}

#endif
