// Runs the kernels over random shapes and bytes, in buffers that end where their data ends. Compares bits with ggml's.
//
// kernel_bounds LIBGGML_CPU FIRST N runs N cases from number FIRST on. A case depends on its number alone.

#include "kernels.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <random>
#include <thread>
#include <vector>

namespace {

thread_local bool memory_is_short = false;

[[noreturn]] void fail(int64_t number, const char *kernel, const char *what) {
    std::printf("case %lld, %s: %s\n", static_cast<long long>(number), kernel, what);
    std::exit(1);
}

class Random {
public:
    explicit Random(int64_t seed) : engine_(static_cast<uint64_t>(seed)) {}
    int64_t between(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(engine_); }
    bool one_in(int64_t n) { return between(1, n) == 1; }
    void fill(char *bytes, int64_t n) {
        for (int64_t i = 0; i < n; ++i) bytes[i] = static_cast<char>(engine_());
    }

private:
    std::mt19937_64 engine_;
};

// A buffer between pages that cannot be touched, at their end or at their start, or one that AddressSanitizer surrounds.
class Buffer {
public:
    Buffer(Random &random, int64_t n_bytes) : n_bytes_(n_bytes) {
        const int64_t page = sysconf(_SC_PAGESIZE), place = random.between(0, 2);
        if (place == 0) {
            data_ = static_cast<char *>(std::malloc(n_bytes));
            return;
        }
        inside_ = (n_bytes + page - 1) / page * page;
        pages_ = static_cast<char *>(mmap(nullptr, inside_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(pages_ + page, inside_, PROT_READ | PROT_WRITE);
        data_ = pages_ + page + (place == 1 ? inside_ - n_bytes : 0);
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() {
        const int64_t page = sysconf(_SC_PAGESIZE);
        pages_ ? static_cast<void>(munmap(pages_, inside_ + 2 * page)) : std::free(data_);
    }
    void forbid_writing() {
        if (pages_) mprotect(pages_ + sysconf(_SC_PAGESIZE), inside_, PROT_READ);
    }
    char *data() const { return data_; }
    int64_t size() const { return n_bytes_; }

private:
    int64_t n_bytes_, inside_ = 0;
    char *pages_ = nullptr, *data_ = nullptr;
};

struct Format {  // a block: scales, then values and whatever else belongs to them, then sums of 16 bits
    int64_t n_bytes, n_values, n_scales;
    int64_t scale_bytes = 2, n_sums = 0;
    int64_t scales_at = 0;  // or later, where they come last

    Format of_four() const { return {4 * n_bytes, n_values, 4 * n_scales, scale_bytes, 4 * n_sums}; }
};

enum class Bytes {
    FINITE,   // scales that are finite, inputs without -128
    HOSTILE,  // any scales: nan, infinite, negative, denormal
    ANY,      // also inputs of -128 and sums that cannot be, which ggml makes only of nan
};

void fill_matrix(Random &random, char *blocks, int64_t n_blocks, const Format &format, bool finite) {
    random.fill(blocks, n_blocks * format.n_bytes);
    for (char *block = blocks; block < blocks + n_blocks * format.n_bytes; block += format.n_bytes)
        for (int64_t i = 1; finite && i <= format.n_scales; ++i)
            block[format.scales_at + i * format.scale_bytes - 1] &= ~0x40;  // of the exponent
}

void fill_inputs(Random &random, char *blocks, int64_t n_blocks, const Format &format, Bytes bytes) {
    constexpr int16_t MOST = 16 * 127;
    fill_matrix(random, blocks, n_blocks, format, bytes == Bytes::FINITE);
    if (bytes == Bytes::ANY || format.n_values == 1) return;
    for (char *block = blocks; block < blocks + n_blocks * format.n_bytes; block += format.n_bytes) {
        const int64_t n_sum_bytes = 2 * format.n_sums;
        for (int64_t i = format.n_scales * format.scale_bytes; i < format.n_bytes - n_sum_bytes; ++i)
            if (block[i] == -128) block[i] = 0;
        for (int64_t i = format.n_bytes - n_sum_bytes; i < format.n_bytes; i += 2) {
            const auto sum = static_cast<int16_t>(random.between(-MOST, MOST));
            std::memcpy(block + i, &sum, sizeof sum);
        }
    }
}

// One of four inputs whose scales, values and sums take turns.
std::vector<char> one_of_four(const char *fours, int64_t n_blocks, const Format &format, int64_t index) {
    std::vector<char> one;
    for (const char *block = fours; block < fours + 4 * n_blocks * format.n_bytes; block += 4 * format.n_bytes) {
        const int64_t n_scales = format.n_scales * format.scale_bytes;
        one.insert(one.end(), block + index * n_scales, block + (index + 1) * n_scales);
        for (const char *at = block + 4 * n_scales; at < block + 4 * format.n_bytes; at += 32)
            one.insert(one.end(), at + 8 * index, at + 8 * index + 8);
    }
    return one;
}

struct Shape {
    int64_t n_rows, n_inputs, n_blocks;
    int64_t matrix_stride, inputs_stride, out_stride;  // in blocks, and in values
};

struct Operands {
    const char *matrix, *inputs;
    float *out;
};

struct Kernel {
    const char *name;
    int64_t side;  // matrix rows side by side in a block
    int64_t least_inputs, most_inputs;
    bool strided, has_bits_of_ggml;
    Format matrix, input;
    std::function<bool(const Shape &, const Operands &, const Share &)> multiply;  // false: it leaves its share to ggml
    std::function<void(const Shape &, const Operands &)> ggml;                     // without strides in `out`
};

// Of `n` rows of `length`, of which only the last ends there.
int64_t extent(int64_t n, int64_t stride, int64_t length) { return n > 0 ? (n - 1) * stride + length : 0; }

Shape random_shape(Random &random, const Kernel &kernel) {
    Shape shape;
    shape.n_rows = kernel.side * random.between(0, kernel.side > 1 ? 20 : random.one_in(2) ? 20 : 100);
    shape.n_inputs = random.between(kernel.least_inputs, random.one_in(3) ? kernel.most_inputs : std::min<int64_t>(kernel.most_inputs, 9));
    if (kernel.side > 1 && shape.n_inputs > 1) shape.n_inputs = (shape.n_inputs + 3) / 4 * 4;
    shape.n_blocks = random.between(1, (random.one_in(4) ? 40 : 7) * std::max<int64_t>(1, 32 / kernel.matrix.n_values));
    const auto more = [&] { return kernel.strided && random.one_in(2) ? random.between(1, 9) : 0; };
    shape.matrix_stride = shape.n_blocks + more();
    shape.inputs_stride = shape.n_blocks + more();
    shape.out_stride = shape.n_rows + (random.one_in(2) ? random.between(1, 40) : 0);
    return shape;
}

// As ggml does it: every thread takes its share, or none does and ggml's own function runs.
bool multiply_in_threads(const Kernel &kernel, const Shape &shape, const Operands &operands, int64_t n_threads, bool is_short) {
    std::vector<char> done(n_threads);
    const auto work = [&](int64_t index, bool short_here) {
        memory_is_short = short_here;
        done[index] = kernel.multiply(shape, operands, {index, n_threads});
        memory_is_short = false;
    };
    std::vector<std::thread> threads;
    for (int64_t index = is_short ? 0 : 1; index < n_threads; ++index)
        threads.emplace_back(work, index, is_short && index % 2 == 0);
    if (!is_short) work(0, false);
    for (std::thread &thread : threads) thread.join();
    for (char share : done)
        if (!share) return false;
    return true;
}

bool equal(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

void run_case(const Kernel &kernel, int64_t number) {
    Random random(number);
    const Shape shape = random_shape(random, kernel);
    const auto bytes = static_cast<Bytes>(random.between(0, 2));
    const bool in_fours = kernel.side > 1 && shape.n_inputs > 1;
    const Format input_format = in_fours ? kernel.input.of_four() : kernel.input;
    const int64_t rows_of_inputs = in_fours ? shape.n_inputs / 4 : shape.n_inputs;
    const int64_t n_matrix = extent(shape.n_rows / kernel.side, shape.matrix_stride, shape.n_blocks);
    const int64_t n_inputs = extent(rows_of_inputs, shape.inputs_stride, shape.n_blocks);
    Buffer matrix(random, n_matrix * kernel.matrix.n_bytes), inputs(random, n_inputs * input_format.n_bytes);
    fill_matrix(random, matrix.data(), n_matrix, kernel.matrix, bytes == Bytes::FINITE);
    fill_inputs(random, inputs.data(), n_inputs, input_format, bytes);
    matrix.forbid_writing();
    inputs.forbid_writing();

    Buffer out(random, extent(shape.n_inputs, shape.out_stride, shape.n_rows) * int64_t{sizeof(float)});
    std::memset(out.data(), 0x5A, out.size());
    const Operands operands{matrix.data(), inputs.data(), reinterpret_cast<float *>(out.data())};
    const bool is_short = random.one_in(8);
    if (!multiply_in_threads(kernel, shape, operands, random.between(1, random.one_in(8) ? 16 : 5), is_short)) {
        if (!is_short) fail(number, kernel.name, "it leaves its share to ggml");
        return;
    }

    std::vector<float> expected(shape.n_inputs * shape.n_rows);
    kernel.ggml(shape, {operands.matrix, operands.inputs, expected.data()});
    float untouched;
    std::memset(&untouched, 0x5A, sizeof untouched);
    for (int64_t n = 0; n < shape.n_inputs; ++n)
        for (int64_t i = 0; i < (n + 1 < shape.n_inputs ? shape.out_stride : shape.n_rows); ++i) {
            const float found = operands.out[n * shape.out_stride + i];
            if (i >= shape.n_rows && !equal(found, untouched)) fail(number, kernel.name, "it writes between the rows");
            if (i >= shape.n_rows || bytes == Bytes::ANY || !kernel.has_bits_of_ggml) continue;
            if (!equal(found, expected[n * shape.n_rows + i])) fail(number, kernel.name, "its bits are not those of ggml");
        }
}

void *library = nullptr;

template <class Function>
Function *of_ggml(const char *name) {
    void *found = dlsym(library, name);
    if (!found) std::printf("%s is missing\n", name), std::exit(2);
    return reinterpret_cast<Function *>(found);
}

using Dot = void(int, float *, size_t, const void *, size_t, const void *, size_t, int);
using Repacked = void(int, float *, size_t, const void *, const void *, int, int);

// A kernel that ggml calls once a thread, with the whole product.
Kernel shared(const char *name, Format matrix, Format input, int64_t least_inputs, int64_t most_inputs, bool has_bits_of_ggml,
              const char *dot, std::function<void(const Shape &, const Operands &, const Share &)> multiply) {
    const auto one = [=, dot = of_ggml<Dot>(dot)](const Shape &shape, const Operands &operands) {
        for (int64_t n = 0; n < shape.n_inputs; ++n)
            for (int64_t row = 0; row < shape.n_rows; ++row)
                dot(static_cast<int>(shape.n_blocks * matrix.n_values), operands.out + n * shape.n_rows + row, 0,
                    operands.matrix + row * shape.matrix_stride * matrix.n_bytes, 0,
                    operands.inputs + n * shape.inputs_stride * input.n_bytes, 0, 1);
    };
    const auto always = [multiply](const Shape &shape, const Operands &operands, const Share &share) {
        multiply(shape, operands, share);
        return true;
    };
    return {name, 1, least_inputs, most_inputs, true, has_bits_of_ggml, matrix, input, always, one};
}

// A kernel that ggml calls for pieces of the matrix, with blocks of eight rows, and of four inputs or one.
Kernel repacked(const char *name, Format matrix, Format input, const char *gemv, bool (*multiply)(const RepackedProduct &)) {
    const auto pieces = [=](const Shape &shape, const Operands &operands, const Share &share) {
        const int64_t n = shape.n_rows / 8, from = n * share.index / share.of, to = n * (share.index + 1) / share.of;
        return from == to ||
               multiply({operands.matrix + from * shape.n_blocks * matrix.n_bytes, 8 * (to - from), operands.inputs,
                         shape.n_inputs, shape.n_blocks * matrix.n_values, operands.out + 8 * from, shape.out_stride});
    };
    const auto one = [=, gemv = of_ggml<Repacked>(gemv)](const Shape &shape, const Operands &operands) {
        const auto n_values = static_cast<int>(shape.n_blocks * matrix.n_values), n_rows = static_cast<int>(shape.n_rows);
        for (int64_t n = 0; n < shape.n_inputs; ++n) {
            const char *from = operands.inputs + n / 4 * 4 * shape.n_blocks * input.n_bytes;
            const std::vector<char> single = shape.n_inputs > 1 ? one_of_four(from, shape.n_blocks, input, n % 4)
                                                                : std::vector<char>(from, from + shape.n_blocks * input.n_bytes);
            gemv(n_values, operands.out + n * shape.n_rows, shape.n_rows, operands.matrix, single.data(), 1, n_rows);
        }
    };
    return {name, 8, 1, 300, false, true, matrix, input, pieces, one};
}

std::vector<Kernel> kernels() {
    const auto blocks = [](auto multiply) {
        return [=](const Shape &shape, const Operands &operands, const Share &share) {
            multiply(share, {operands.matrix, shape.matrix_stride, shape.n_rows, operands.inputs, shape.inputs_stride,
                             shape.n_inputs, shape.n_blocks, operands.out, shape.out_stride});
        };
    };
#ifdef __AVX512F__
    const bool as_wide_as_ggml = true;
#else
    const bool as_wide_as_ggml = false;
#endif
    std::vector<Kernel> found{
        shared("F16", {2, 1, 1}, {2, 1, 1}, 2, MOST_F16_INPUTS, as_wide_as_ggml, "ggml_vec_dot_f16", blocks(multiply_f16)),
        repacked("Q4_0", {144, 32, 8}, {34, 32, 1}, "ggml_gemv_q4_0_8x8_q8_0", multiply_q4_0),
    };
#ifdef EDGEINFER_VNNI
    found.push_back(shared("Q4_1", {20, 32, 2}, {36, 32, 2}, 1, 300, true, "ggml_vec_dot_q4_1_q8_1", blocks(multiply_q4_1)));
    found.push_back(shared("Q8_0", {34, 32, 1}, {34, 32, 1}, 1, 300, true, "ggml_vec_dot_q8_0_q8_0", blocks(multiply_q8_0)));
    constexpr Format Q8_K{292, 256, 1, 4, 16};
    found.push_back(shared("Q5_K", {176, 256, 2}, Q8_K, 1, 300, true, "ggml_vec_dot_q5_K_q8_K", blocks(multiply_q5_K)));
    found.push_back(shared("Q6_K", {210, 256, 1, 2, 0, 208}, Q8_K, 1, 300, true, "ggml_vec_dot_q6_K_q8_K", blocks(multiply_q6_K)));
    found.push_back(repacked("Q4_K", {1152, 256, 16}, Q8_K, "ggml_gemv_q4_K_8x8_q8_K", multiply_q4_K));
#endif
    return found;
}

#ifdef EDGEINFER_VNNI
void quantize_case(int64_t number) {
    constexpr Format FORMAT{292, 256, 1, 4, 16};
    Random random(number);
    const int64_t n_blocks = random.between(1, 9), n_values = n_blocks * FORMAT.n_values;
    Buffer inputs(random, 4 * n_values * 4), fours(random, 4 * n_blocks * FORMAT.n_bytes);
    const bool finite = random.one_in(2);
    fill_matrix(random, inputs.data(), 4 * n_values, {4, 1, 1, 4}, finite);
    inputs.forbid_writing();
    const auto *values = reinterpret_cast<const float *>(inputs.data());
    quantize_four_q8_K(values, fours.data(), n_values);
    if (!finite) return;
    std::vector<char> expected(n_blocks * FORMAT.n_bytes);
    for (int64_t row = 0; row < 4; ++row) {
        of_ggml<void(const float *, void *, int64_t)>("quantize_row_q8_K")(values + row * n_values, expected.data(), n_values);
        if (one_of_four(fours.data(), n_blocks, FORMAT, row) != expected) fail(number, "inputs of Q4_K", "its bytes are not those of ggml");
    }
}
#endif

}  // namespace

// The kernels ask for memory in this way.
void *operator new[](size_t n_bytes, const std::nothrow_t &) noexcept { return memory_is_short ? nullptr : std::malloc(n_bytes); }
void *operator new[](size_t n_bytes, std::align_val_t align, const std::nothrow_t &) noexcept {
    const auto unit = static_cast<size_t>(align);
    return memory_is_short ? nullptr : std::aligned_alloc(unit, (n_bytes + unit - 1) / unit * unit);
}
void operator delete[](void *memory) noexcept { std::free(memory); }
void operator delete[](void *memory, std::align_val_t) noexcept { std::free(memory); }

int main(int, char **arguments) {
    library = dlopen(arguments[1], RTLD_NOW);
    if (!library) return std::printf("%s\n", dlerror()), 2;
    of_ggml<void()>("ggml_cpu_init")();  // fills the table of 16-bit floats
    const int64_t first = std::atoll(arguments[2]), n_cases = std::atoll(arguments[3]);
    for (const Kernel &kernel : kernels()) {
        for (int64_t number = first; number < first + n_cases; ++number) run_case(kernel, number);
        std::printf("%s: %lld cases\n", kernel.name, static_cast<long long>(n_cases));
    }
#ifdef EDGEINFER_VNNI
    for (int64_t number = first; number < first + n_cases; ++number) quantize_case(number);
#endif
}
