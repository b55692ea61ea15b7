// Puts edgeinfer's kernels in place of ggml's, in the running process.
//
// libggml-cpu calls each function that it exports through a slot of its own table (.got.plt), as shared libraries do.
// The slots of some get the addresses of functions below; what these do not take goes to ggml's own.

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "kernels.h"

namespace {

constexpr int F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q8_1 = 9;  // enum ggml_type
constexpr int Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15;

std::atomic<uint64_t> installed{0};  // a bit for each type

bool is_installed(int type) { return installed.load(std::memory_order_relaxed) >> type & 1; }

struct ComputeParams {  // the start of ggml_compute_params (ggml-cpu-impl.h)
    int thread, n_threads;
};

struct Tensor {  // the start of ggml_tensor (ggml.h)
    int type;
    void *buffer;
    int64_t sizes[4];
    size_t strides[4];
    int operation, parameters[16], flags;
    const Tensor *sources[10];
};

using Tiled = bool (*)(const ComputeParams *, const Tensor *);
using Sgemm = bool (*)(const ComputeParams *, int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t,
                       void *, int64_t, int, int, int);
using Repacked = void (*)(int, float *, size_t, const void *, const void *, int, int);
using Quantize = void (*)(const float *, void *, int64_t);

// ggml's own functions
std::atomic<void *> ggml_sgemm{nullptr}, ggml_tiled{nullptr}, ggml_gemv_q4_0{nullptr}, ggml_gemm_q4_0{nullptr},
    ggml_gemv_q4_K{nullptr}, ggml_gemm_q4_K{nullptr}, ggml_quantize_four{nullptr};

using MultiplyBlocks = void (*)(const Share &, const BlockProduct &);

struct Blocks {
    int matrix, inputs;
    int64_t fewest, most;  // inputs; other numbers are left to ggml
    MultiplyBlocks multiply;
};

constexpr int64_t ANY = INT64_MAX;

const Blocks BLOCKS[] = {
    {F16, F16, 2, MOST_F16_INPUTS, multiply_f16},
    {Q4_1, Q8_1, 1, ANY, multiply_q4_1},
    {Q8_0, Q8_0, 1, ANY, multiply_q8_0},
    {Q5_K, Q8_K, 2, ANY, multiply_q5_K},
    {Q6_K, Q8_K, 2, ANY, multiply_q6_K},
};

// See llamafile/sgemm.h: C[n][m] = A[m] . B[n], with k values (or blocks of them) in a row. False: "do it another way".
bool sgemm(const ComputeParams *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t a_stride, const void *b,
           int64_t b_stride, void *c, int64_t c_stride, int a_type, int b_type, int c_type) {
    const Share share{params->thread, params->n_threads};
    const bool is_ours = is_installed(a_type) && c_type == F32;
    for (const Blocks &blocks : BLOCKS) {
        if (!is_ours || a_type != blocks.matrix || b_type != blocks.inputs) continue;
        if (n < blocks.fewest || n > blocks.most) continue;
        blocks.multiply(share, {a, a_stride, m, b, b_stride, n, k, static_cast<float *>(c), c_stride});
        return true;
    }
    return reinterpret_cast<Sgemm>(ggml_sgemm.load())(params, m, n, k, a, a_stride, b, b_stride, c, c_stride, a_type,
                                                      b_type, c_type);
}

// See ggml-cpu/tiled/tiled.h: ggml calls it before `sgemm`. False: "do it another way".
bool tiled(const ComputeParams *params, const Tensor *product) {
    const int type = product->sources[0]->type;
    const bool is_ours = (type == Q5_K || type == Q6_K) && is_installed(type);
    return !is_ours && reinterpret_cast<Tiled>(ggml_tiled.load())(params, product);
}

// See ggml-cpu/repack.h: gemv takes one row in blocks of its own, gemm groups of four rows in shared blocks.
template <int TYPE, bool (*multiply)(const RepackedProduct &), std::atomic<void *> &of_ggml>
void repacked(int n_values, float *out, size_t out_stride, const void *matrix, const void *inputs, int n_inputs,
              int n_rows) {
    const RepackedProduct product{matrix, n_rows, inputs, n_inputs, n_values, out, static_cast<int64_t>(out_stride)};
    if (!is_installed(TYPE) || !multiply(product))
        reinterpret_cast<Repacked>(of_ggml.load())(n_values, out, out_stride, matrix, inputs, n_inputs, n_rows);
}

void quantize_four(const float *inputs, void *blocks, int64_t n_values) {
    const auto quantize = reinterpret_cast<Quantize>(ggml_quantize_four.load());
    (is_installed(Q4_K) ? quantize_four_q8_K : quantize)(inputs, blocks, n_values);
}

template <class Function>
void *address(Function *function) { return reinterpret_cast<void *>(function); }

struct Place {
    int type;
    const char *symbol;
    void *ours;
    std::atomic<void *> *of_ggml;
};

const Place PLACES[] = {
    {F16, "llamafile_sgemm", address(sgemm), &ggml_sgemm},
    {Q4_0, "ggml_gemv_q4_0_8x8_q8_0", address(repacked<Q4_0, multiply_q4_0, ggml_gemv_q4_0>), &ggml_gemv_q4_0},
    {Q4_0, "ggml_gemm_q4_0_8x8_q8_0", address(repacked<Q4_0, multiply_q4_0, ggml_gemm_q4_0>), &ggml_gemm_q4_0},
#ifdef EDGEINFER_VNNI
    {Q4_1, "llamafile_sgemm", address(sgemm), &ggml_sgemm},
    {Q8_0, "llamafile_sgemm", address(sgemm), &ggml_sgemm},
    {Q5_K, "llamafile_sgemm", address(sgemm), &ggml_sgemm},
    {Q5_K, "ggml_compute_forward_mul_mat_tiled", address(tiled), &ggml_tiled},
    {Q6_K, "llamafile_sgemm", address(sgemm), &ggml_sgemm},
    {Q6_K, "ggml_compute_forward_mul_mat_tiled", address(tiled), &ggml_tiled},
    {Q4_K, "ggml_gemv_q4_K_8x8_q8_K", address(repacked<Q4_K, multiply_q4_K, ggml_gemv_q4_K>), &ggml_gemv_q4_K},
    {Q4_K, "ggml_gemm_q4_K_8x8_q8_K", address(repacked<Q4_K, multiply_q4_K, ggml_gemm_q4_K>), &ggml_gemm_q4_K},
    {Q4_K, "ggml_quantize_mat_q8_K_4x8", address(quantize_four), &ggml_quantize_four},
#endif
};

struct Slot {
    const char *symbol;
    const void *in_library;  // an address in it
    void **address = nullptr;
    void *original = nullptr;
    bool read_only = false;
};

struct Dynamic {
    const Elf64_Sym *symbols = nullptr;
    const char *names = nullptr;
    const Elf64_Rela *calls = nullptr;
    size_t n_calls = 0;
};

Dynamic read_dynamic(const dl_phdr_info &object, const Elf64_Dyn *entry) {
    const auto address = [&](Elf64_Addr value) {  // some C libraries leave these relative
        return value < object.dlpi_addr ? value + object.dlpi_addr : value;
    };
    Dynamic found;
    for (; entry->d_tag != DT_NULL; ++entry) {
        const Elf64_Addr value = entry->d_un.d_ptr;
        if (entry->d_tag == DT_SYMTAB) found.symbols = reinterpret_cast<const Elf64_Sym *>(address(value));
        if (entry->d_tag == DT_STRTAB) found.names = reinterpret_cast<const char *>(address(value));
        if (entry->d_tag == DT_JMPREL) found.calls = reinterpret_cast<const Elf64_Rela *>(address(value));
        if (entry->d_tag == DT_PLTRELSZ) found.n_calls = entry->d_un.d_val / sizeof(Elf64_Rela);
    }
    return found;
}

int find_slot(dl_phdr_info *object, size_t, void *wanted) {
    Slot &slot = *static_cast<Slot *>(wanted);
    const auto wanted_address = reinterpret_cast<Elf64_Addr>(slot.in_library);
    const Elf64_Addr page = sysconf(_SC_PAGESIZE);
    const Elf64_Dyn *entries = nullptr;
    Elf64_Addr sealed = 0, sealed_end = 0;
    bool is_wanted = false;
    for (int i = 0; i < object->dlpi_phnum; ++i) {
        const Elf64_Phdr &part = object->dlpi_phdr[i];
        const Elf64_Addr at = object->dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_DYNAMIC) entries = reinterpret_cast<const Elf64_Dyn *>(at);
        if (part.p_type == PT_LOAD) is_wanted |= wanted_address >= at && wanted_address < at + part.p_memsz;
        if (part.p_type == PT_GNU_RELRO) {  // whole pages are read-only; data that is written may follow on the last
            sealed = at / page * page;
            sealed_end = (at + part.p_memsz) / page * page;
        }
    }
    if (!entries || !is_wanted) return 0;
    const Dynamic dynamic = read_dynamic(*object, entries);
    if (!dynamic.symbols || !dynamic.names || !dynamic.calls) return 0;
    for (size_t i = 0; i < dynamic.n_calls; ++i) {
        const Elf64_Sym &symbol = dynamic.symbols[ELF64_R_SYM(dynamic.calls[i].r_info)];
        if (symbol.st_value == 0 || std::strcmp(dynamic.names + symbol.st_name, slot.symbol) != 0) continue;
        const Elf64_Addr at = object->dlpi_addr + dynamic.calls[i].r_offset;
        slot.address = reinterpret_cast<void **>(at);
        slot.original = reinterpret_cast<void *>(object->dlpi_addr + symbol.st_value);
        slot.read_only = at >= sealed && at < sealed_end;
        return 1;
    }
    return 0;
}

bool write(const Slot &slot, void *function) {
    const auto page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    void *page = reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(slot.address) & ~(page_size - 1));
    if (slot.read_only && mprotect(page, page_size, PROT_READ | PROT_WRITE) != 0) return false;
    __atomic_store_n(slot.address, function, __ATOMIC_SEQ_CST);
    return !slot.read_only || mprotect(page, page_size, PROT_READ) == 0;
}

}  // namespace

bool edgeinfer_kernel_install(int type, const void *address) {
    bool found = false;
    for (const Place &place : PLACES) {
        if (place.type != type) continue;
        Slot slot{place.symbol, address};
        if (!dl_iterate_phdr(find_slot, &slot)) return false;
        place.of_ggml->store(slot.original);
        if (!write(slot, place.ours)) return false;
        found = true;
    }
    if (found) installed |= uint64_t{1} << type;
    return found;
}

void edgeinfer_kernel_remove(int type) { installed &= ~(uint64_t{1} << type); }

bool edgeinfer_repacked(int type, int n_values, float *out, size_t out_stride, const void *matrix, const void *inputs,
                        int n_inputs, int n_rows) {
    const RepackedProduct product{matrix, n_rows, inputs, n_inputs, n_values, out, static_cast<int64_t>(out_stride)};
    return type == Q4_K ? multiply_q4_K(product) : multiply_q4_0(product);
}

void edgeinfer_quantize_four(const float *inputs, void *blocks, int64_t n_values) {
    quantize_four_q8_K(inputs, blocks, n_values);
}
