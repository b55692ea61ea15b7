// Q4_1 and Q8_0 matrices times any number of rows, with the bits of ggml's products of two rows.
//
// ggml (0.25) multiplies a matrix row with an input in ggml_vec_dot_q4_1_q8_1 and ggml_vec_dot_q8_0_q8_0. A block has eight
// parts of four values, and each part is added to a sum of its own. Here a register holds the same part of sixteen matrix
// rows: their scales are multiplied at once, and a block is unpacked once for all inputs. The product of a part is a whole
// number, so it is the same; it is scaled and added up as ggml does it, so the results are equal bit for bit.

#include "side_by_side.h"

#ifdef EDGEINFER_VNNI

#include <cstddef>
#include <memory>
#include <new>

namespace {

constexpr int64_t MOST_FIRST = 2;  // inputs at once while the matrix is unpacked; more would not fit the registers
constexpr int64_t MOST_LATER = 3;  // inputs at once after that
constexpr int64_t PASS = 128;      // inputs for which the matrix is unpacked once: their copies stay small
constexpr int64_t FAR = 8192;      // bytes beyond the next rows that are fetched into the second cache
constexpr int64_t LINE = 64;       // bytes of a cache line
constexpr uint64_t EARLY = 2;      // blocks: how far in front scales are collected, because fresh stores load slowly

// ggml's blocks of 32 values; the scales are 16-bit floats.
struct BlockQ4_1 {
    uint16_t scale, minimum;
    uint8_t values[16];  // the low halves are values 0 to 15, the high ones 16 to 31
};
struct BlockQ8_0 {
    uint16_t scale;
    int8_t values[32];
};
struct BlockQ8_1 {
    uint16_t scale, sum;  // sum: of the values, times the scale
    int8_t values[32];
};

// How a format is read. `Unpacked` is one block of 16 matrix rows, `Input` one block of an input, as the loop needs them.

struct Q4_1 {
    using Block = BlockQ4_1;
    using InputBlock = BlockQ8_1;
    using Scales = uint32_t;  // scale and minimum
    static constexpr bool HAS_MINIMUM = true;

    struct Unpacked {
        __m512i parts[PARTS];
        __m512 scale, minimum;
    };
    struct Input {
        int32_t parts[PARTS];
        float scale, sum;

        void read(const InputBlock &block) {
            std::memcpy(parts, block.values, sizeof parts);
            scale = _cvtsh_ss(block.scale);
            sum = _cvtsh_ss(block.sum);
        }
        __m512i start(int) const { return _mm512_setzero_si512(); }
    };

    static void unpack(const Rows &rows, int64_t block, const Scales *scales, Unpacked &out) {
        const __m512i low = _mm512_set1_epi8(0x0F);
        __m512i both[4];
        transpose(rows, block * sizeof(Block) + offsetof(Block, values), both);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            out.parts[i] = _mm512_and_si512(both[i], low);
            out.parts[4 + i] = _mm512_and_si512(_mm512_srli_epi16(both[i], 4), low);
        }
        const __m512i halves = _mm512_loadu_si512(scales);
        out.scale = widen(_mm512_cvtepi32_epi16(halves));
        out.minimum = widen(_mm512_cvtepi32_epi16(_mm512_srli_epi32(halves, 16)));
    }
};

struct Q8_0 {
    using Block = BlockQ8_0;
    using InputBlock = BlockQ8_0;
    using Scales = uint16_t;
    static constexpr bool HAS_MINIMUM = false;

    struct Unpacked {
        __m512i parts[PARTS];  // value + 128, because vpdpbusd takes unsigned values
        __m512 scale;
    };
    struct Input {
        int32_t parts[PARTS];
        int32_t starts[PARTS];  // -128 times the sum of the part
        float scale;

        void read(const InputBlock &block) {
            const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block.values));
            const __m256i times_128 = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(-128), values);
            std::memcpy(parts, block.values, sizeof parts);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(starts), _mm256_sub_epi32(_mm256_setzero_si256(), times_128));
            scale = _cvtsh_ss(block.scale);
        }
        __m512i start(int part) const { return _mm512_set1_epi32(starts[part]); }
    };

    static void unpack(const Rows &rows, int64_t block, const Scales *scales, Unpacked &out) {
        const int64_t offset = block * sizeof(Block) + offsetof(Block, values);
        transpose(rows, offset, out.parts);
        transpose(rows, offset + 16, out.parts + 4);
#pragma GCC unroll 8
        for (__m512i &part : out.parts) part = _mm512_xor_si512(part, _mm512_set1_epi8(-128));
        out.scale = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(scales)));
    }
};

inline void fetch(const char *next, size_t n_bytes) {
#pragma GCC unroll 9
    for (size_t line = 0; line < n_bytes; line += LINE) {
        _mm_prefetch(next + line, _MM_HINT_T0);
        _mm_prefetch(next + line + FAR, _MM_HINT_T1);
    }
}

template <class Format>
inline void collect_scales(const Rows &rows, int64_t block, typename Format::Scales *scales) {
#pragma GCC unroll 16
    for (int row = 0; row < SIDE; ++row)
        std::memcpy(scales + row, rows.at[row] + block * sizeof(typename Format::Block), sizeof *scales);
}

template <class Format>
struct Panel {  // some inputs, and 16 matrix rows
    const Rows &rows;
    typename Format::Unpacked *unpacked;
    int64_t n_blocks;
    const char *next;  // the matrix rows after these
    float *out;
    int64_t out_stride;
    __mmask16 wanted;  // rows
};

enum class Matrix { READ, READ_AND_KEEP, KEPT };  // whether it is unpacked by this panel, and for those after it

// `inputs` points to those of the first block.
template <class Format, int N, Matrix FROM, class Inputs>
void multiply_panel(const Panel<Format> &panel, Inputs inputs) {
    using Block = typename Format::Block;
    __m512 sums[N][PARTS], minima[N];
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n) {
        minima[n] = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (__m512 &sum : sums[n]) sum = _mm512_setzero_ps();
    }
    typename Format::Scales scales[2 * EARLY][SIDE];
    const uint64_t n_blocks = panel.n_blocks;
    if constexpr (FROM != Matrix::KEPT)
        for (uint64_t block = 0; block < std::min(EARLY, n_blocks); ++block)
            collect_scales<Format>(panel.rows, block, scales[block]);
    const char *next = panel.next;
    for (uint64_t block = 0; block < n_blocks; ++block, inputs += N, next += SIDE * sizeof(Block)) {
        typename Format::Unpacked in_registers;
        typename Format::Unpacked &matrix = FROM == Matrix::READ ? in_registers : panel.unpacked[block];
        if constexpr (FROM != Matrix::KEPT) {
            fetch(next, SIDE * sizeof(Block));
            collect_scales<Format>(panel.rows, std::min(block + EARLY, n_blocks - 1), scales[(block + EARLY) % (2 * EARLY)]);
            Format::unpack(panel.rows, block, scales[block % (2 * EARLY)], matrix);
        }
        __m512 scale[N];
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) {
            scale[n] = _mm512_mul_ps(matrix.scale, _mm512_set1_ps(inputs[n].scale));
            if constexpr (Format::HAS_MINIMUM)
                minima[n] = _mm512_fmadd_ps(matrix.minimum, _mm512_set1_ps(inputs[n].sum), minima[n]);
        }
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; ++part) {
            const __m512i values = matrix.parts[part];
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) {
                const __m512i input = _mm512_set1_epi32(inputs[n].parts[part]);
                const __m512i products = _mm512_dpbusd_epi32(inputs[n].start(part), values, input);
                sums[n][part] = _mm512_fmadd_ps(scale[n], _mm512_cvtepi32_ps(products), sums[n][part]);
            }
        }
    }
    for (int n = 0; n < N; ++n) {
        __m512 sum = add_parts(sums[n]);
        if constexpr (Format::HAS_MINIMUM) sum = _mm512_add_ps(sum, minima[n]);
        _mm512_mask_storeu_ps(panel.out + n * panel.out_stride, panel.wanted, sum);
    }
}

template <class Format, Matrix FROM>
void multiply_panel_of(int64_t n_inputs, const Panel<Format> &panel, const typename Format::Input *inputs) {
    if (n_inputs == 1) multiply_panel<Format, 1, FROM>(panel, inputs);
    if (n_inputs == 2) multiply_panel<Format, 2, FROM>(panel, inputs);
    if constexpr (FROM == Matrix::KEPT)
        if (n_inputs == 3) multiply_panel<Format, 3, FROM>(panel, inputs);
}

template <class Format>
struct Unread {  // one input, without a copy of it
    const typename Format::InputBlock *block;

    typename Format::Input operator[](int) const {
        typename Format::Input input;
        input.read(*block);
        return input;
    }
    void operator+=(int) { ++block; }
};

struct Panels {  // how some inputs are divided
    int64_t n_inputs;
    int64_t n_first = std::min(n_inputs, MOST_FIRST);
    int64_t n_later = (n_inputs - n_first + MOST_LATER - 1) / MOST_LATER;

    int64_t count() const { return 1 + n_later; }
    int64_t begin(int64_t panel) const {
        return panel == 0 ? 0 : n_later == 0 ? n_first : n_first + (n_inputs - n_first) * (panel - 1) / n_later;
    }
};

template <class T>
T *room_for(size_t n) {  // null where memory is short
    thread_local std::unique_ptr<T[]> kept;
    thread_local size_t size = 0;
    if (size < n) {
        size = 0;
        kept.reset();
        kept.reset(new (std::nothrow) T[n]);
        if (kept) size = n;
    }
    return kept.get();
}

template <class Format>
void read_inputs(const BlockProduct &product, const Panels &panels, typename Format::Input *out) {
    const auto *blocks = static_cast<const typename Format::InputBlock *>(product.inputs);
    for (int64_t panel = 0; panel < panels.count(); ++panel)
        for (int64_t block = 0; block < product.n_blocks; ++block)
            for (int64_t n = panels.begin(panel); n < panels.begin(panel + 1); ++n)
                (out++)->read(blocks[n * product.inputs_stride + block]);
}

template <class Format>
void multiply_pass(const Share &share, const BlockProduct &product) {
    const Panels panels{product.n_inputs};
    auto *inputs = room_for<typename Format::Input>(product.n_inputs * product.n_blocks);
    auto *unpacked = room_for<typename Format::Unpacked>(product.n_blocks);
    const auto *blocks = static_cast<const typename Format::InputBlock *>(product.inputs);
    const bool has_room = inputs && unpacked;  // ggml cannot take over: its other threads may be here already
    if (has_room) read_inputs<Format>(product, panels, inputs);
    const auto *matrix = static_cast<const char *>(product.matrix);
    const int64_t row_bytes = product.matrix_stride * sizeof(typename Format::Block);
    const int64_t n_groups = (product.n_rows + SIDE - 1) / SIDE;
    for (int64_t group = n_groups * share.index / share.of; group < n_groups * (share.index + 1) / share.of; ++group) {
        const int64_t row = group * SIDE, n_rows = std::min<int64_t>(SIDE, product.n_rows - row);
        const Rows rows = rows_from(matrix + row * row_bytes, row_bytes, n_rows);
        const auto panel_from = [&](int64_t input) {
            return Panel<Format>{rows,
                                 unpacked,
                                 product.n_blocks,
                                 matrix + (row + SIDE) * row_bytes,
                                 product.out + input * product.out_stride + row,
                                 product.out_stride,
                                 static_cast<__mmask16>((1u << n_rows) - 1)};
        };
        for (int64_t n = 0; !has_room && n < product.n_inputs; ++n)
            multiply_panel<Format, 1, Matrix::READ>(panel_from(n), Unread<Format>{blocks + n * product.inputs_stride});
        for (int64_t i = 0; has_room && i < panels.count(); ++i) {
            const int64_t begin = panels.begin(i), n = panels.begin(i + 1) - begin;
            const Panel<Format> panel = panel_from(begin);
            const auto *first = inputs + begin * product.n_blocks;
            if (i > 0)
                multiply_panel_of<Format, Matrix::KEPT>(n, panel, first);
            else if (panels.count() > 1)
                multiply_panel_of<Format, Matrix::READ_AND_KEEP>(n, panel, first);
            else
                multiply_panel_of<Format, Matrix::READ>(n, panel, first);
        }
    }
}

template <class Format>
void multiply(const Share &share, const BlockProduct &product) {
    for (int64_t first = 0; first < product.n_inputs; first += PASS)
        multiply_pass<Format>(share, part_of<typename Format::InputBlock>(product, first, PASS));
}

}  // namespace

void multiply_q4_1(const Share &share, const BlockProduct &product) { multiply<Q4_1>(share, product); }
void multiply_q8_0(const Share &share, const BlockProduct &product) { multiply<Q8_0>(share, product); }

#else

void multiply_q4_1(const Share &, const BlockProduct &) {}
void multiply_q8_0(const Share &, const BlockProduct &) {}

#endif
