// Puts multiply_rows in place of ggml's kernel for several rows, in the running process.
//
// libggml-cpu calls llamafile_sgemm through a slot of its own table (.got.plt), as shared libraries call every function
// that they export. The slot gets the address of the function below; everything that is not for it goes to ggml's own.

#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "rows.h"

namespace {

constexpr int F32 = 0, F16 = 1;  // enum ggml_type

struct ComputeParams {  // the start of ggml_compute_params (ggml-cpu-impl.h)
    int thread, n_threads;
};

using Sgemm = bool (*)(const ComputeParams *, int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t,
                       void *, int64_t, int, int, int);

std::atomic<Sgemm> of_ggml{nullptr};

// See llamafile/sgemm.h: C[n][m] = A[m] . B[n], with k values (or blocks of them) in a row. False: "do it another way".
bool sgemm(const ComputeParams *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t a_stride, const void *b,
           int64_t b_stride, void *c, int64_t c_stride, int a_type, int b_type, int c_type) {
    if (n < 2 || n > MOST_INPUTS || a_type != F16 || b_type != F16 || c_type != F32)
        return of_ggml.load()(params, m, n, k, a, a_stride, b, b_stride, c, c_stride, a_type, b_type, c_type);
    multiply_rows({params->thread, params->n_threads},
                  {static_cast<const uint16_t *>(a), a_stride, m, static_cast<const uint16_t *>(b), b_stride, n, k,
                   static_cast<float *>(c), c_stride});
    return true;
}

struct Slot {
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

int find_slot(dl_phdr_info *object, size_t, void *result) {
    if (!object->dlpi_name || !std::strstr(object->dlpi_name, "ggml-cpu")) return 0;
    const Elf64_Dyn *entries = nullptr;
    Elf64_Addr sealed = 0, sealed_end = 0;
    for (int i = 0; i < object->dlpi_phnum; ++i) {
        const Elf64_Phdr &part = object->dlpi_phdr[i];
        const Elf64_Addr at = object->dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_DYNAMIC) entries = reinterpret_cast<const Elf64_Dyn *>(at);
        if (part.p_type == PT_GNU_RELRO) sealed = at, sealed_end = at + part.p_memsz;
    }
    if (!entries) return 0;
    const Dynamic dynamic = read_dynamic(*object, entries);
    if (!dynamic.symbols || !dynamic.names || !dynamic.calls) return 0;
    for (size_t i = 0; i < dynamic.n_calls; ++i) {
        const Elf64_Sym &symbol = dynamic.symbols[ELF64_R_SYM(dynamic.calls[i].r_info)];
        if (symbol.st_value == 0 || std::strcmp(dynamic.names + symbol.st_name, "llamafile_sgemm") != 0) continue;
        const Elf64_Addr at = object->dlpi_addr + dynamic.calls[i].r_offset;
        *static_cast<Slot *>(result) = {reinterpret_cast<void **>(at),
                                        reinterpret_cast<void *>(object->dlpi_addr + symbol.st_value),
                                        at >= sealed && at < sealed_end};
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

bool edgeinfer_rows_install(void) {
    Slot slot;
    if (!dl_iterate_phdr(find_slot, &slot)) return false;
    of_ggml = reinterpret_cast<Sgemm>(slot.original);
    return write(slot, reinterpret_cast<void *>(&sgemm));
}

void edgeinfer_rows_remove(void) {
    Slot slot;
    if (dl_iterate_phdr(find_slot, &slot)) write(slot, slot.original);
}
