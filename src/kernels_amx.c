#define GPT2C_ISA amx
#define GPT2C_ISA_AVX512
#define GPT2C_ISA_VNNI
#define GPT2C_ISA_AMX
#ifdef GPT2C_EMULATE_TILES
#include "tiles_emulated.h"
#endif
#include "kernels.inc.c"
