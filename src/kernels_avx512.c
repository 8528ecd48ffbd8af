#define GPT2C_ISA avx512
#define GPT2C_ISA_AVX512
#include "kernels.inc.c"
