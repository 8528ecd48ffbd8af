#define GPT2C_ISA generic
#define GPT2C_ISA_GENERIC
#include "kernels.inc.c"
