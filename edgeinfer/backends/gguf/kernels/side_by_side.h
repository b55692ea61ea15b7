// What the kernels share that hold 16 matrix rows side by side: ggml (0.25) adds up the products of a block's values in eight
// parts, and a register here holds the same part of each row.

#pragma once

#include "kernels.h"

#ifdef EDGEINFER_VNNI

#include <immintrin.h>

#include <algorithm>
#include <cstring>

constexpr int SIDE = 16;  // matrix rows side by side
constexpr int PARTS = 8;

struct Rows {
    const char *at[SIDE];
};

// Rows from `first` on; in place of those beyond the matrix, its last one.
inline Rows rows_from(const char *first, int64_t row_bytes, int64_t n_rows) {
    Rows rows;
    for (int64_t i = 0; i < SIDE; ++i) rows.at[i] = first + std::min(i, n_rows - 1) * row_bytes;
    return rows;
}

inline __m512 widen(__m256i halves) { return _mm512_cvtph_ps(halves); }

inline __m512i every_fourth(const Rows &rows, int first, int64_t offset) {
    const auto load = [&](int row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows.at[first + row] + offset));
    };
    const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(load(0)), load(4), 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(two, load(8), 2), load(12), 3);
}

// 16 bytes of 16 rows: four bytes of each in turn
inline void transpose(const Rows &rows, int64_t offset, __m512i *turned) {
    const __m512i a = every_fourth(rows, 0, offset), b = every_fourth(rows, 1, offset);
    const __m512i c = every_fourth(rows, 2, offset), d = every_fourth(rows, 3, offset);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i ab_high = _mm512_unpackhi_epi32(a, b), cd_high = _mm512_unpackhi_epi32(c, d);
    turned[0] = _mm512_unpacklo_epi64(ab, cd);
    turned[1] = _mm512_unpackhi_epi64(ab, cd);
    turned[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    turned[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

// In the order of ggml's hsum_float_8: four apart, two apart, neighbors.
inline __m512 add_parts(const __m512 (&sums)[PARTS]) {
    __m512 four[4];
    for (int i = 0; i < 4; ++i) four[i] = _mm512_add_ps(sums[i], sums[4 + i]);
    return _mm512_add_ps(_mm512_add_ps(four[0], four[2]), _mm512_add_ps(four[1], four[3]));
}

// The product of some of the inputs: at most `most`, from `first` on.
template <class InputBlock>
BlockProduct part_of(const BlockProduct &product, int64_t first, int64_t most) {
    BlockProduct part = product;
    part.inputs = static_cast<const InputBlock *>(product.inputs) + first * product.inputs_stride;
    part.n_inputs = std::min(most, product.n_inputs - first);
    part.out = product.out + first * product.out_stride;
    return part;
}

inline void fetch(const char *from, const char *to) {
    for (; from < to; from += 64) _mm_prefetch(from, _MM_HINT_T0);  // a line of the cache
}

#endif
