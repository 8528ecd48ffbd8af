#define GPT2C_ISA amx
#define GPT2C_ISA_AVX512
#define GPT2C_ISA_VNNI
#define GPT2C_ISA_AMX
#include "kernels.inc.c"
