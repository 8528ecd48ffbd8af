/* The kernel tables and the probe of the CPU: exactly the features that setup.py compiles each table with. */
#include "gpt2c.h"

extern const gpt2c_kernels gpt2c_kernels_generic;
#ifdef GPT2C_HAVE_X86
extern const gpt2c_kernels gpt2c_kernels_avx2, gpt2c_kernels_avx512;
#endif

const gpt2c_kernels *gpt2c_compiled(ptrdiff_t index) {
    static const gpt2c_kernels *const tables[] = {
        &gpt2c_kernels_generic,
#ifdef GPT2C_HAVE_X86
        &gpt2c_kernels_avx2,
        &gpt2c_kernels_avx512,
#endif
    };
    return index >= 0 && index < (ptrdiff_t)(sizeof tables / sizeof tables[0]) ? tables[index] : NULL;
}

int gpt2c_supported(const gpt2c_kernels *kernels) {
#ifdef GPT2C_HAVE_X86
    __builtin_cpu_init(); /* asks the operating system, too, whether it saves the registers */
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (kernels == &gpt2c_kernels_avx2) return avx2;
    if (kernels == &gpt2c_kernels_avx512) return avx2 && __builtin_cpu_supports("avx512f");
#endif
    return kernels == &gpt2c_kernels_generic;
}
