#define GPT2C_ISA_GENERIC
#include "gpt2c.h"
#include "vec.h"

#include "k_elementwise.inc.c"
#include "k_layer_norm.inc.c"
#include "k_linear_f32.inc.c"

#include "k_attention.inc.c"
#include "k_sampler.inc.c"
#include "k_roofline.inc.c"

extern const gpt2c_kernels gpt2c_kernels_generic;
const gpt2c_kernels gpt2c_kernels_generic = {
    "generic", apply, epilogue, layer_norm, linear, attention, log_sum, sample, read_all, multiply_add,
};
