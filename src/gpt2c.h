/* gpt2c.h: sizes, weights, caches and kernels, with their contracts. A call over them: call.h.
 *
 * Sizes, all ptrdiff_t, counted in elements:
 *   n_embd   width of the residual stream            n_head     attention heads, n_head * d_head == n_embd
 *   d_head   width of one head                       d_pad      d_head rounded up to VEC_LANES (16)
 *   n_inner  width of the feed-forward layer         n_kv_head  heads of keys and values; divides n_head
 *   n_ctx    positions known to the model            n_vocab    tokens known to the model
 *   ld*      distance between two rows of a matrix
 * Matrices are row-major. Pointers to float need no alignment beyond that of a float; panels are 64-byte aligned
 * for speed only. No two arguments alias unless the contract of the function says so.
 *
 * C owns no memory: the caller hands over every buffer. Functions do not fail: the caller has checked sizes, ids and
 * positions; those that can report something return it.
 */
#ifndef GPT2C_H
#define GPT2C_H

#include <stddef.h>
#include <stdint.h>

/* The version of every sum and function below. It changes whenever any result may change by a bit. */
#define GPT2C_NUMERICS_VERSION 4

#define GPT2C_LANES 16        /* floats in a virtual vector */
#define GPT2C_PANEL 64        /* outputs in a panel of packed weights */
#define GPT2C_K_BLOCK 256     /* inputs summed in one fma chain */
#define GPT2C_GROUP 64        /* inputs multiplied in a step by integer layers, which are padded to whole steps */
#define GPT2C_HALF_GROUP 32   /* inputs that share a factor in int4 weights */
#define GPT2C_INT4_BLOCK 256  /* inputs that share a scale in int4 weights */
#define GPT2C_INT8_BLOCK 4096 /* inputs that are summed as integers in int8 layers: 4095 * 127 * 4096 < 2^31 */
#define GPT2C_K_PART 128      /* inputs multiplied at a time by many rows: their weights stay in a first-level cache */
#define GPT2C_KEY_BLOCK 128   /* keys in one softmax block, at absolute positions */
#define GPT2C_TILE_ROWS 6     /* rows that a register tile holds at most */
#define GPT2C_QUERIES 24      /* queries that attend together at most */
#define GPT2C_CHUNK 512       /* rows that go through the layers together, unless an observer is present */
#define GPT2C_MOST_THREADS 1024

/* Sizes derived from these: n rounded up to whole vectors; panels of a dense layer; floats that hold n inputs in any
 * format, rows of them; words of a bit mask over the vocabulary. */
#define GPT2C_PAD(n) (((n) + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES)
#define GPT2C_PANELS(n_out) (((n_out) + GPT2C_PANEL - 1) / GPT2C_PANEL)
#define GPT2C_ENCODED(rows, n_in) (((rows) + 31) / 32 * 32 * ((n_in) + 2 * GPT2C_GROUP))
#define GPT2C_MASK_WORDS(n_vocab) (((n_vocab) + GPT2C_LANES - 1) / GPT2C_LANES)
/* Sizes of scratch, in floats; each is explained at its kernel. */
#define GPT2C_LINEAR_SCRATCH(rows) ((2 * (rows) + GPT2C_K_PART) * GPT2C_PANEL)
#define GPT2C_PARTIAL(d_pad) ((d_pad) + GPT2C_LANES)
#define GPT2C_TOP_SCRATCH(n) (3 * (n) + GPT2C_LANES)
#define GPT2C_SAMPLE_SCRATCH(n) (2 * (n) + GPT2C_LANES)
/* Scores, two sets of partial results, and a block of keys and values widened from float16; for bfloat16, the queries
 * and a block of values. */
#define GPT2C_ATTENTION_SCRATCH(d_pad)                                                                                 \
    (GPT2C_QUERIES * (GPT2C_KEY_BLOCK + 2 * GPT2C_PARTIAL(d_pad)) + 2 * GPT2C_KEY_BLOCK * (d_pad))

typedef enum {
    GPT2C_IDENTITY,
    GPT2C_GELU_NEW,   /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) */
    GPT2C_GELU,       /* x/2 (1 + erf(x / sqrt(2))) */
    GPT2C_QUICK_GELU, /* x sigmoid(1.702 x) */
    GPT2C_RELU,
    GPT2C_SILU, /* x sigmoid(x) */
    GPT2C_TANH,
    GPT2C_EXP, /* from here on: not activations, named for tests */
    GPT2C_ERF,
    GPT2C_SIGMOID,
    GPT2C_N_FUNCTIONS
} gpt2c_function;

/* Number formats of the weights of dense layers. */
typedef enum { GPT2C_FLOAT32, GPT2C_BFLOAT16, GPT2C_INT8, GPT2C_INT4, GPT2C_N_DTYPES } gpt2c_dtype;

/* How an integer layer rounds its inputs, each row by a scale of its own: x = scale * q + offset, q to the nearest
 * integer, ties to even.
 *   GPT2C_SIGNED   -127 … 127, scale = greatest magnitude / 127, offset 0
 *   GPT2C_WIDE     -4095 … 4095 likewise, where 8 bits would cost too much
 *   GPT2C_SHIFTED  -128 … 127, scale = (greatest - least) / 254, both of the inputs and 0; q = round(x / scale) - zero,
 *                  zero = round(least / scale) + 128, offset = scale * zero: for inputs that are not symmetric, as the
 *                  output of an activation */
typedef enum { GPT2C_SIGNED, GPT2C_WIDE, GPT2C_SHIFTED } gpt2c_inputs;

/* A dense layer y[n_out] = W^T x[n_in] + bias. W is packed into panels of 64 outputs, each of which is read from its
 * first byte to its last (gpt2c_panel_size of them); outputs beyond n_out and inputs beyond n_in are zero. With
 * w(k, j) = W[k][64 p + j], panel p is
 *   float32   float    [n_in][64]                         w(k, j)
 *   bfloat16  half h of the outputs after half: per 32 inputs uint16_t [2][16][16][2]: w(2i + 1, 32h + 16t + j) and
 *             w(2i, 32h + 16t + j) at [t][i][j]: the order in which vdpbf16ps adds
 *   int8      float shift[64], float scale[blocks of 4096 inputs][64]; then half h of the outputs after half: per 64
 *             inputs uint8_t [2][16][16][4]: q(4i + …, 32h + 16t + j) + 128 at [t][i][j]
 *   int4      float shift[64], float scale[blocks of 256 inputs][64]; then half after half, per 64 inputs
 *             int8_t factor[2][32], one for each 32 inputs, and uint8_t [2][2][4][16][4]: of 32 inputs g,
 *             q(32g + 8i + …, 32h + 16t + j) + 8 at [t][g][i][j] in the low four bits, that of 4 inputs later in the
 *             high ones
 * where w = scale * q, -127 <= q <= 127, or scale * (factor * q), -8 <= q <= 7, -15 <= factor <= 15. shift is the sum
 * of an output's weights: of scale * float(sum of q), the blocks added in ascending order. bias has n_out floats or is
 * NULL. inputs is of int8 and int4 layers. */
typedef struct {
    const void *panels;
    const float *bias;
    ptrdiff_t n_in, n_out;
    gpt2c_dtype dtype;
    gpt2c_inputs inputs;
} gpt2c_dense;

/* gain and bias have n_embd floats. */
typedef struct {
    const float *gain, *bias;
} gpt2c_norm;

typedef struct {
    gpt2c_norm ln_1, ln_2; /* before attention and before the feed-forward layer; with post_norm after them */
    gpt2c_dense c_attn, attn_proj, c_fc, mlp_proj;
    gpt2c_norm ln_cross;                       /* before cross-attention, */
    gpt2c_dense cross_q, cross_kv, cross_proj; /* its keys and values come from an encoder's output */
    float attn_scale;                          /* the factor on a query times a key */
} gpt2c_layer;

/* One model. Head h attends to the keys and values of head h * n_kv_head / n_head; a row of C_ATTN is the queries of
 * all heads, then the keys, then the values. wte is plain rows, or NULL where embedding and head are one matrix: rows
 * are then read from the panels.
 * Each part of a layer reads LayerNorm of the residual stream and is added to it. With post_norm a part reads the
 * residual stream itself, and LayerNorm of the sum replaces it, as ln_emb of the embedding does; ln_f is missing. What
 * enters the head goes through `transform`, the activation and ln_head before, unless that has no outputs. */
typedef struct {
    ptrdiff_t n_layer, n_head, n_kv_head, d_head, n_embd, n_inner, n_ctx, n_vocab;
    int post_norm;
    int cross; /* layers also attend to the output of an encoder */
    gpt2c_function activation;
    float epsilon;
    const gpt2c_layer *layers; /* [n_layer] */
    const float *wte;          /* [n_vocab][n_embd] or NULL */
    const float *wpe;          /* [n_ctx][n_embd] */
    const float *wtt;          /* [n_types][n_embd] or NULL */
    gpt2c_norm ln_emb, ln_f, ln_head;
    gpt2c_dense transform; /* n_embd to n_embd */
    gpt2c_dense head;      /* n_embd to n_vocab */
} gpt2c_model;

/* The number format of keys and values. */
typedef enum { GPT2C_CACHE_FLOAT32, GPT2C_CACHE_FLOAT16, GPT2C_CACHE_BFLOAT16 } gpt2c_cache_dtype;

/* The keys and values of one sequence, of n_kv_head heads.
 *   k[layer][head][position / 16][d_head][16]: 16 positions lie in the lanes
 *   v[layer][head][position][d_pad], zero beyond d_head
 * and as bfloat16, in words of two, the first of them in the upper half:
 *   k[layer][head][position / 16][d_head / 2, rounded up][16]: inputs 2 i and 2 i + 1, zero beyond d_head
 *   v[layer][head][position / 2][d_pad]: two positions
 * capacity is a multiple of 16. Entries beyond the length are arbitrary, NaN included.
 * The first `shared` positions, a multiple of 16, are those of another cache of the same format, k0 and v0, which is
 * read-only; k and v then begin with position `shared`. */
typedef struct {
    void *k, *v;
    ptrdiff_t capacity;
    const void *k0, *v0;
    ptrdiff_t capacity0, shared;
    gpt2c_cache_dtype dtype;
} gpt2c_cache;

/* The part of a cache that attention of one head reads; next: the keys that will be read after it, or NULL (a hint). */
typedef struct {
    const void *k, *v, *k0, *v0;
    ptrdiff_t shared;
    gpt2c_cache_dtype dtype;
    const void *next;
} gpt2c_keys;

/* The linear kernel's epilogue on its sums: out = residual + function(sums + bias). */
typedef struct {
    gpt2c_function function;
    const float *residual; /* same shape and ld as out, may be out itself; NULL for none */
} gpt2c_epilogue;

/* The sampler's input besides the logits (gpt2c/generation/options.py explains each option). */
typedef struct {
    float temperature; /* 0: the greatest logit, the lowest id among equals */
    float top_p, min_p;
    ptrdiff_t top_k;                 /* 0: all */
    uint64_t seed, stream, position; /* the key of the one random number drawn */
} gpt2c_sampling;

/* Kernels: serial, one table per ISA. Every output element is computed by one call and its bits depend on nothing but
 * the inputs that the formula names: not on the range asked for, nor on the ISA. */
typedef struct {
    const char *name;

    /* out[i] = function(x[i]), i < n; out may be x. */
    void (*apply)(float *out, const float *x, ptrdiff_t n, gpt2c_function function);

    /* out[r][c] = residual[r][c] + function(sums[r][c] + bias[c]), r < rows, c < n. bias or residual may be NULL;
     * out may be sums or residual. */
    void (*epilogue)(float *out, ptrdiff_t ld_out, const float *sums, ptrdiff_t ld_sums, const float *bias,
                     const gpt2c_epilogue *epilogue, ptrdiff_t rows, ptrdiff_t n);

    /* out[r][c] = (x[r][c] - mean_r) / sqrt(variance_r + epsilon) * gain[c] + bias[c], n >= 1 columns; out may be x. */
    void (*layer_norm)(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_norm *norm,
                       float epsilon, ptrdiff_t rows, ptrdiff_t n);

    /* Rows x[rows][n] as the dense layer (not of float32) multiplies them, as rows row0, row0 + 1, … of the matrix
     * `out` of encoded rows, which has GPT2C_ENCODED floats and a layout of the ISA's own. int8 and int4: as
     * gpt2c_inputs says, n = n_in; the scale of a row is 0 where it would be below 2^-100 / 127 or so, and NaN if any
     * input is not finite. bfloat16: rounded to nearest even; the inputs are those from `first` on, a multiple of 64,
     * as n is unless it ends the row. */
    void (*encode)(const gpt2c_dense *dense, void *out, ptrdiff_t row0, const float *x, ptrdiff_t ld_x, ptrdiff_t rows,
                   ptrdiff_t first, ptrdiff_t n);

    /* Columns [64 panel0, min(64 panel1, n_out)) of rows row0, row0 + 1, … of the dense layer, then the epilogue. x
     * holds rows of floats, ld_x apart, or the output of encode.
     *   float32   each sum is one fma chain over k in ascending order per block of 256 inputs; blocks are added in
     *             ascending order
     *   bfloat16  the same over rounded inputs and weights. The tables "avx512bf16" and "amx" treat subnormals as zero;
     *             "amx" adds, in ascending order per 32 inputs, the sum of two chains: of the even and of the odd ones
     *   int8      total = shift * offset; then per block of 4096 inputs the exact integer sum s, in ascending order:
     *             total = fma(float(s), weight scale * x scale, total)
     *   int4      the same per block of 256 inputs
     * out and the residual point to the first requested column; x does not alias out. scratch:
     * GPT2C_LINEAR_SCRATCH(rows) floats. */
    void (*linear)(float *out, ptrdiff_t ld_out, const void *x, ptrdiff_t ld_x, ptrdiff_t row0,
                   const gpt2c_dense *dense, const gpt2c_epilogue *epilogue, ptrdiff_t rows, ptrdiff_t panel0,
                   ptrdiff_t panel1, float *scratch);

    /* Causal attention of `rows` <= GPT2C_QUERIES queries at positions first, first + advance, …, over the keys at
     * positions 0 … its own: consecutive queries of one head (advance 1), or queries of several heads at one position
     * (0). q and out hold d_head floats a row; k and v are those that the heads share (gpt2c_cache). Per block of 128
     * keys: scores = scale * (fma chain over d), weights exp(score - block maximum), weighted values as an fma chain
     * over the keys; blocks merge left to right. With a bfloat16 cache queries and weights are rounded to bfloat16, and
     * products summed as `linear` says of that format ("amx" so: if d_head is a multiple of 32). scratch:
     * GPT2C_ATTENTION_SCRATCH(d_pad) floats. */
    void (*attention)(float *out, ptrdiff_t ld_out, const float *q, ptrdiff_t ld_q, const gpt2c_keys *keys,
                      ptrdiff_t rows, ptrdiff_t first, ptrdiff_t advance, ptrdiff_t d_head, float scale,
                      float *scratch);

    /* The same for one block of keys, of which the last query sees at least one: row i of partial (ld_partial floats
     * apart) gets weighted values [d_pad], then their maximum score and sum of weights, unless query i sees none. */
    void (*attention_block)(float *partial, ptrdiff_t ld_partial, const float *q, ptrdiff_t ld_q,
                            const gpt2c_keys *keys, ptrdiff_t rows, ptrdiff_t first, ptrdiff_t advance,
                            ptrdiff_t d_head, float scale, ptrdiff_t block, float *scratch);
    /* Keys into the 16 positions of a cache at `group`, rounded to nearest, ties to even: row r < rows of x holds
     * inputs first … first + n of d_head, n <= 64, of position lane + r < 16. Nothing else is touched, so that threads
     * can fill parts of one group, but for the padding, which goes with the last input. */
    void (*store_keys)(void *group, gpt2c_cache_dtype dtype, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head,
                       const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n);
    /* The same for values. */
    void (*store_values)(void *group, gpt2c_cache_dtype dtype, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head,
                         const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n);
    /* out[d_head] of one query from its blocks, partial[blocks][GPT2C_PARTIAL(d_pad)], one after the other. scratch:
     * GPT2C_PARTIAL(d_pad) floats. */
    void (*attention_merge)(float *out, const float *partial, ptrdiff_t blocks, ptrdiff_t d_head, float *scratch);

    /* The scores of the query at `position`, the same bits: out[j] for keys j < n_keys, -inf for those after it. */
    void (*attention_scores)(float *out, const float *q, const gpt2c_keys *keys, ptrdiff_t position, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float scale, float *scratch);
    /* out[i] = exp(x[i] - maximum) / sum, i < n; exactly 0 where x[i] is -inf, also if all are. out may be x. */
    void (*softmax)(float *out, const float *x, ptrdiff_t n);
    /* out[d_head] = the sum of pattern[j] times the value of key j, an fma chain over j < n_keys. */
    void (*attention_values)(float *out, const float *pattern, const gpt2c_keys *keys, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float *scratch);

    /* Of one row of logits: max_i, sum of exp(l_i - max) in *total, sum of exp(l_i - max) (l_i - max) in *moment, and
     * the number of logits greater than `threshold`. Sums of 256 terms in float32, these in float64. In *variance, if
     * it is not NULL, the variance of the logits, each as probable as its softmax says: sums of 256 terms around their
     * own mean, these put together in float64. NaN or +inf among the logits: *total and *variance are NaN. */
    ptrdiff_t (*log_sum)(const float *logits, ptrdiff_t n, float threshold, float *maximum, double *total,
                         double *moment, double *variance);

    /* max and sum of exp(l_i - max) like these, of the logits l_i whose bit i % 16 of mask[i / 16] is set (no bit is
     * beyond n); -inf and 0 where there are none. All bits set: the same numbers as of log_sum. */
    void (*subset_sum)(const float *logits, ptrdiff_t n, const uint16_t *mask, float *maximum, double *total);

    /* How many logits are greater than `threshold`. */
    ptrdiff_t (*count_greater)(const float *logits, ptrdiff_t n, float threshold);

    /* The k <= n greatest logits, the lowest ids among equals: their ids, ascending, and themselves. Where fewer are
     * above -inf, -1 and -inf follow. The logits hold neither NaN nor +inf. scratch: GPT2C_TOP_SCRATCH(n) floats. */
    void (*top)(int32_t *ids, float *value, const float *logits, ptrdiff_t n, ptrdiff_t k, float *scratch);

    /* Draws one token; the logits hold no NaN. work: GPT2C_SAMPLE_SCRATCH(n) floats, ids: n int32. Returns the id, or
     * -1 if no token can be chosen (all are -inf, or the greatest is infinite). Weights are float32, the greatest 1,
     * those below exp(-87) are 0; their sums are float64, 16 at a time as in v_sum. No sort: edges are found by
     * selection. */
    ptrdiff_t (*sample)(const float *logits, ptrdiff_t n, const gpt2c_sampling *sampling, float *work, int32_t *ids);

    /* Roofs: the sum of n floats, each read once; and `steps` steps of the arithmetic of dense layers of this dtype on
     * values in registers (bfloat16: as float32 where the table has no instruction for it), returning the number of
     * operations, two per weight multiplied (*result is read and written, so that none is left out). */
    float (*read_all)(const float *x, ptrdiff_t n);
    double (*operations)(gpt2c_dtype dtype, ptrdiff_t steps, float *result);
} gpt2c_kernels;

/* Inputs of an integer layer whose weights have one scale. */
static inline ptrdiff_t gpt2c_scale_block(gpt2c_dtype dtype) {
    return dtype == GPT2C_INT4 ? GPT2C_INT4_BLOCK : GPT2C_INT8_BLOCK;
}
static inline int gpt2c_is_integer(gpt2c_dtype dtype) { return dtype == GPT2C_INT8 || dtype == GPT2C_INT4; }

/* dispatch.c: the tables compiled in, from the plainest to the widest ISA. Returns NULL past the last. */
const gpt2c_kernels *gpt2c_compiled(ptrdiff_t index);
/* Whether this CPU and operating system run exactly the features that the table was compiled for. */
int gpt2c_supported(const gpt2c_kernels *kernels);
/* Whether it should be chosen before plainer ones where it is supported. */
int gpt2c_preferred(const gpt2c_kernels *kernels);

/* pack.c: panels of W[n_in][n_out] (source[k * ld + n]) or, transposed, of W[n_out][n_in] (source[n * ld + k]), for
 * panels [panel0, panel1) of `dense`, whose panels it writes. int8: scale = greatest magnitude of the block / 127;
 * int4: as pack_int4 says. */
void gpt2c_pack(const gpt2c_dense *dense, void *panels, const float *source, ptrdiff_t ld, int transposed,
                ptrdiff_t panel0, ptrdiff_t panel1);
/* out[k] = W[k][n] as the panels hold it, k < n_in. */
void gpt2c_unpack(const gpt2c_dense *dense, ptrdiff_t n, float *out);
/* Bytes of a panel, a multiple of 64. */
ptrdiff_t gpt2c_panel_size(gpt2c_dtype dtype, ptrdiff_t n_in);

/* Bytes of the keys, and of the values, of 16 positions of one head in a cache. */
ptrdiff_t gpt2c_keys_size(gpt2c_cache_dtype dtype, ptrdiff_t d_head);
ptrdiff_t gpt2c_values_size(gpt2c_cache_dtype dtype, ptrdiff_t d_head);

/* ---- team.c: the parallel region ---- */

/* Calls body(argument, begin, end, thread) for equal parts of [0, n), one per thread. */
void gpt2c_parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int), void *argument);
/* A region of `phases` phases of one empty item per thread: the cost of synchronising threads, for benchmarks. */
void gpt2c_empty_phases(int threads, ptrdiff_t phases);
/* "openmp" or "pool": what regions run in from now on. */
const char *gpt2c_team_kind(void);
/* Chooses the pool, or OpenMP. Returns 0, or -1 in a build without OpenMP. A region for which a thread cannot
 * be started, which would end the process in GNU OpenMP, chooses the pool by itself. */
int gpt2c_team_choose(int use_pool);
/* On how many threads the last region ran for which not all could be started; 0 if there was none. */
int gpt2c_team_short(void);

#endif
