/* The kernel tables and the probe of the CPU: exactly the features that setup.py compiles each table with. */
#define _DEFAULT_SOURCE
#include "gpt2c.h"

#ifdef GPT2C_HAVE_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

static int always(void) { return 1; }

#ifdef GPT2C_HAVE_X86
/* Not among the names that __builtin_cpu_supports knows everywhere: leaf 1, ECX, bit 29; leaf 7.1, EAX, bit 4. */
static int has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx >> 29 & 1U);
}
/* __builtin_cpu_supports also asks whether the operating system saves the registers. */
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
static int has_avxvnni(void) {
    unsigned eax, ebx, ecx, edx;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1U);
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}
static int has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
static int has_avx512bf16(void) { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#ifdef GPT2C_EMULATE_TILES
static int has_amx(void) { return has_avx512vnni(); }
#else
/* Leaf 7, EDX, bits 22 (bfloat16), 24 (tiles), 25 (int8). Linux lets a process use tiles only after it has asked. */
static int has_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    const unsigned needed = 1U << 22 | 1U << 24 | 1U << 25;
    unsigned eax, ebx, ecx, edx;
    if (!has_avx512vnni() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & needed) != needed) return 0;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
#endif
#endif

extern const gpt2c_kernels gpt2c_kernels_generic;
#ifdef GPT2C_HAVE_X86
extern const gpt2c_kernels gpt2c_kernels_avx2, gpt2c_kernels_avxvnni, gpt2c_kernels_avx512, gpt2c_kernels_avx512vnni,
    gpt2c_kernels_avx512bf16, gpt2c_kernels_amx;
#endif

static const struct {
    const gpt2c_kernels *kernels;
    int (*supported)(void);
} tables[] = {
    {&gpt2c_kernels_generic, always},
#ifdef GPT2C_HAVE_X86
    {&gpt2c_kernels_avx2, has_avx2},
    {&gpt2c_kernels_avxvnni, has_avxvnni},
    {&gpt2c_kernels_avx512, has_avx512},
    {&gpt2c_kernels_avx512vnni, has_avx512vnni},
    {&gpt2c_kernels_avx512bf16, has_avx512bf16},
    {&gpt2c_kernels_amx, has_amx},
#endif
};
enum { TABLES = sizeof tables / sizeof tables[0] };
_Static_assert(TABLES == GPT2C_TABLES, "one entry for each that setup.py compiles");

const gpt2c_kernels *gpt2c_compiled(ptrdiff_t index) {
    return index >= 0 && index < TABLES ? tables[index].kernels : NULL;
}

int gpt2c_supported(const gpt2c_kernels *kernels) {
    for (int i = 0; i < TABLES; i++)
        if (kernels == tables[i].kernels) return tables[i].supported();
    return 0;
}

int gpt2c_preferred(const gpt2c_kernels *kernels) {
#ifdef GPT2C_HAVE_X86
    /* Intel's vdpbf16ps does half the work of two multiply-adds in the same time (Sapphire Rapids: 220 against 440
     * GFLOP/s); on AMD it does twice as much. */
    if (kernels == &gpt2c_kernels_avx512bf16) return __builtin_cpu_is("amd");
#ifdef GPT2C_EMULATE_TILES
    if (kernels == &gpt2c_kernels_amx) return 0; /* only for tests */
#endif
#endif
    return kernels != NULL;
}
