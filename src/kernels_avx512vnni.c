#define GPT2C_ISA avx512vnni
#define GPT2C_ISA_AVX512
#define GPT2C_ISA_VNNI
#include "kernels.inc.c"
