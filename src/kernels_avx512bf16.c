#define GPT2C_ISA avx512bf16
#define GPT2C_ISA_AVX512
#define GPT2C_ISA_VNNI
#define GPT2C_ISA_BF16
#include "kernels.inc.c"
