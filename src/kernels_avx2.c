#define GPT2C_ISA avx2
#define GPT2C_ISA_AVX2
#include "kernels.inc.c"
