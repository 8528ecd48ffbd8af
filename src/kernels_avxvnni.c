#define GPT2C_ISA avxvnni
#define GPT2C_ISA_AVX2
#define GPT2C_ISA_VNNI
#include "kernels.inc.c"
