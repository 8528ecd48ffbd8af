/* All kernels and their table, for the instruction set that the including file names. */
#include "gpt2c.h"
#include "vec.h"
#include "vec_int.h"

#include "k_elementwise.inc.c"
#include "k_encode.inc.c"
#include "k_layer_norm.inc.c"
#include "k_linear_f32.inc.c"
#include "k_linear_q.inc.c"
#include "k_linear_bf16.inc.c"

#include "k_cache.inc.c"
#include "k_keys.inc.c"
#if defined(GPT2C_ISA_AMX)
#include "k_attention_amx.inc.c"
#endif

#include "k_attention.inc.c"
#include "k_linear.inc.c"
#include "k_sampler.inc.c"

#include "k_roofline.inc.c"

#define TABLE_OF(isa) gpt2c_kernels_##isa
#define TABLE(isa) TABLE_OF(isa)
#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

extern const gpt2c_kernels TABLE(GPT2C_ISA);
const gpt2c_kernels TABLE(GPT2C_ISA) = {
    .name = NAME(GPT2C_ISA),
    .apply = apply,
    .epilogue = epilogue,
    .layer_norm = layer_norm,
    .encode = encode,
    .linear = linear,
    .attention = attention,
    .attention_block = attention_block,
    .attention_merge = attention_merge,
    .attention_scores = attention_scores,
    .softmax = softmax,
    .attention_values = attention_values,
    .store_keys = store_keys,
    .store_values = store_values,
    .log_sum = log_sum,
    .subset_sum = subset_sum,
    .count_greater = count_greater,
    .top = top,
    .sample = sample,
    .read_all = read_all,
    .operations = operations,
};
