from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t


cdef extern from "gpt2c.h" nogil:
    enum:
        GPT2C_NUMERICS_VERSION
        GPT2C_LANES
        GPT2C_PANEL
        GPT2C_KEY_BLOCK
        GPT2C_QUERIES
        GPT2C_CHUNK
        GPT2C_MOST_THREADS

    ptrdiff_t GPT2C_PAD(ptrdiff_t n)
    ptrdiff_t GPT2C_PANELS(ptrdiff_t n_out)
    ptrdiff_t GPT2C_ENCODED(ptrdiff_t rows, ptrdiff_t n_in)
    ptrdiff_t GPT2C_MASK_WORDS(ptrdiff_t n_vocab)
    ptrdiff_t GPT2C_LINEAR_SCRATCH(ptrdiff_t rows)
    ptrdiff_t GPT2C_PARTIAL(ptrdiff_t d_pad)
    ptrdiff_t GPT2C_TOP_SCRATCH(ptrdiff_t n)
    ptrdiff_t GPT2C_SAMPLE_SCRATCH(ptrdiff_t n)
    ptrdiff_t GPT2C_ATTENTION_SCRATCH(ptrdiff_t d_pad)

    ctypedef enum gpt2c_function:
        GPT2C_IDENTITY
        GPT2C_GELU_NEW
        GPT2C_GELU
        GPT2C_QUICK_GELU
        GPT2C_RELU
        GPT2C_SILU
        GPT2C_TANH
        GPT2C_EXP
        GPT2C_ERF
        GPT2C_SIGMOID

    ctypedef enum gpt2c_cache_dtype:
        GPT2C_CACHE_FLOAT32
        GPT2C_CACHE_FLOAT16
        GPT2C_CACHE_BFLOAT16

    ctypedef enum gpt2c_dtype:
        GPT2C_FLOAT32
        GPT2C_BFLOAT16
        GPT2C_INT8
        GPT2C_INT4

    ctypedef enum gpt2c_inputs:
        GPT2C_SIGNED
        GPT2C_WIDE
        GPT2C_SHIFTED

    ctypedef struct gpt2c_dense:
        const void *panels
        const float *bias
        ptrdiff_t n_in
        ptrdiff_t n_out
        gpt2c_dtype dtype
        gpt2c_inputs inputs

    ctypedef struct gpt2c_norm:
        const float *gain
        const float *bias

    ctypedef struct gpt2c_layer:
        gpt2c_norm ln_1
        gpt2c_norm ln_2
        gpt2c_dense c_attn
        gpt2c_dense attn_proj
        gpt2c_dense c_fc
        gpt2c_dense mlp_proj
        gpt2c_norm ln_cross
        gpt2c_dense cross_q
        gpt2c_dense cross_kv
        gpt2c_dense cross_proj
        float attn_scale

    ctypedef struct gpt2c_model:
        ptrdiff_t n_layer
        ptrdiff_t n_head
        ptrdiff_t n_kv_head
        ptrdiff_t d_head
        ptrdiff_t n_embd
        ptrdiff_t n_inner
        ptrdiff_t n_ctx
        ptrdiff_t n_vocab
        int post_norm
        int cross
        gpt2c_function activation
        float epsilon
        const gpt2c_layer *layers
        const float *wte
        const float *wpe
        const float *wtt
        gpt2c_norm ln_emb
        gpt2c_norm ln_f
        gpt2c_norm ln_head
        gpt2c_dense transform
        gpt2c_dense head

    ctypedef struct gpt2c_cache:
        void *k
        void *v
        ptrdiff_t capacity
        const void *k0
        const void *v0
        ptrdiff_t capacity0
        ptrdiff_t shared
        gpt2c_cache_dtype dtype

    ctypedef struct gpt2c_keys:
        const void *k
        const void *v
        const void *k0
        const void *v0
        ptrdiff_t shared
        gpt2c_cache_dtype dtype
        const void *next

    ctypedef struct gpt2c_epilogue:
        gpt2c_function function
        const float *residual

    ctypedef struct gpt2c_sampling:
        float temperature
        float top_p
        float min_p
        ptrdiff_t top_k
        uint64_t seed
        uint64_t stream
        uint64_t position

    ctypedef struct gpt2c_kernels:
        const char *name
        void (*apply)(float *, const float *, ptrdiff_t, gpt2c_function) noexcept nogil
        void (*epilogue)(float *, ptrdiff_t, const float *, ptrdiff_t, const float *, const gpt2c_epilogue *,
                         ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*layer_norm)(float *, ptrdiff_t, const float *, ptrdiff_t, const gpt2c_norm *, float, ptrdiff_t,
                           ptrdiff_t) noexcept nogil
        void (*encode)(const gpt2c_dense *, void *, ptrdiff_t, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t) noexcept nogil
        void (*linear)(float *, ptrdiff_t, const void *, ptrdiff_t, ptrdiff_t, const gpt2c_dense *,
                       const gpt2c_epilogue *, ptrdiff_t, ptrdiff_t, ptrdiff_t, float *) noexcept nogil
        void (*attention)(float *, ptrdiff_t, const float *, ptrdiff_t, const gpt2c_keys *, ptrdiff_t, ptrdiff_t,
                          ptrdiff_t, ptrdiff_t, float, float *) noexcept nogil
        void (*attention_block)(float *, ptrdiff_t, const float *, ptrdiff_t, const gpt2c_keys *, ptrdiff_t, ptrdiff_t,
                                ptrdiff_t, ptrdiff_t, float, ptrdiff_t, float *) noexcept nogil
        void (*store_keys)(void *, gpt2c_cache_dtype, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t,
                           ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*store_values)(void *, gpt2c_cache_dtype, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t,
                             ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*attention_merge)(float *, const float *, ptrdiff_t, ptrdiff_t, float *) noexcept nogil
        void (*attention_scores)(float *, const float *, const gpt2c_keys *, ptrdiff_t, ptrdiff_t, ptrdiff_t, float,
                                 float *) noexcept nogil
        void (*softmax)(float *, const float *, ptrdiff_t) noexcept nogil
        void (*attention_values)(float *, const float *, const gpt2c_keys *, ptrdiff_t, ptrdiff_t,
                                 float *) noexcept nogil
        ptrdiff_t (*log_sum)(const float *, ptrdiff_t, float, float *, double *, double *, double *) noexcept nogil
        void (*subset_sum)(const float *, ptrdiff_t, const uint16_t *, float *, double *) noexcept nogil
        ptrdiff_t (*count_greater)(const float *, ptrdiff_t, float) noexcept nogil
        void (*top)(int32_t *, float *, const float *, ptrdiff_t, ptrdiff_t, float *) noexcept nogil
        ptrdiff_t (*sample)(const float *, ptrdiff_t, const gpt2c_sampling *, float *, int32_t *) noexcept nogil
        float (*read_all)(const float *, ptrdiff_t) noexcept nogil
        double (*operations)(gpt2c_dtype, ptrdiff_t, float *) noexcept nogil

    const gpt2c_kernels *gpt2c_compiled(ptrdiff_t)
    int gpt2c_supported(const gpt2c_kernels *)
    int gpt2c_preferred(const gpt2c_kernels *)
    void gpt2c_pack(const gpt2c_dense *, void *, const float *, ptrdiff_t, int, ptrdiff_t, ptrdiff_t)
    void gpt2c_unpack(const gpt2c_dense *, ptrdiff_t, float *)
    ptrdiff_t gpt2c_keys_size(gpt2c_cache_dtype, ptrdiff_t)
    ptrdiff_t gpt2c_values_size(gpt2c_cache_dtype, ptrdiff_t)
    ptrdiff_t gpt2c_panel_size(gpt2c_dtype, ptrdiff_t)
    void gpt2c_parallel_for(int, ptrdiff_t, void (*)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil, void *)
    void gpt2c_empty_phases(int, ptrdiff_t)
    const char *gpt2c_team_kind()
    int gpt2c_team_choose(int)
    int gpt2c_team_short()


cdef extern from "call.h" nogil:
    ctypedef enum gpt2c_phase:
        GPT2C_C_ATTN
        GPT2C_ATTN_PROJ
        GPT2C_C_FC
        GPT2C_MLP_PROJ
        GPT2C_CROSS_Q
        GPT2C_CROSS_KV
        GPT2C_CROSS_PROJ
        GPT2C_TRANSFORM
        GPT2C_EMBED
        GPT2C_HEAD
        GPT2C_STOP

    ctypedef enum gpt2c_place:
        GPT2C_AT_EMBED
        GPT2C_AT_TYPES
        GPT2C_AT_POSITIONS
        GPT2C_AT_LN_EMB
        GPT2C_AT_RESID_PRE
        GPT2C_AT_ATTN_IN
        GPT2C_AT_LN_1
        GPT2C_AT_QKV
        GPT2C_AT_SCORES
        GPT2C_AT_PATTERN
        GPT2C_AT_Z
        GPT2C_AT_ATTN_OUT
        GPT2C_AT_RESID_MID
        GPT2C_AT_CROSS_PATTERN
        GPT2C_AT_CROSS_OUT
        GPT2C_AT_RESID_CROSS
        GPT2C_AT_MLP_IN
        GPT2C_AT_LN_2
        GPT2C_AT_PRE
        GPT2C_AT_POST
        GPT2C_AT_MLP_OUT
        GPT2C_AT_RESID_POST
        GPT2C_AT_LN_F
        GPT2C_N_PLACES

    enum:
        GPT2C_UNFUSED
        GPT2C_OBSERVE_PATTERN
        GPT2C_EDIT_PATTERN
        GPT2C_QKV_STEPS

    ctypedef struct gpt2c_step:
        int phase
        ptrdiff_t layer
        ptrdiff_t row0
        ptrdiff_t rows
        ptrdiff_t origin
        int fold
        int unfused
        int detail

    ctypedef struct gpt2c_batch:
        ptrdiff_t n_sequences
        const gpt2c_cache *caches
        const ptrdiff_t *lengths
        const ptrdiff_t *row_start
        const int32_t *ids
        const int32_t *types
        int bidirectional
        int started
        ptrdiff_t first_layer
        const gpt2c_cache *cross
        const ptrdiff_t *cross_lengths
        int encoded

    ctypedef struct gpt2c_output:
        ptrdiff_t n_rows
        const ptrdiff_t *rows
        float *hidden
        float *logits
        ptrdiff_t score_block
        const ptrdiff_t *target_start
        const int32_t *targets
        float *target_logit
        int64_t *greater
        float *maximum
        double *total
        double *moment
        double *variance
        ptrdiff_t top
        ptrdiff_t n_text
        int32_t *top_ids
        float *top_logits
        ptrdiff_t n_masks
        const uint16_t *masks
        float *mask_maximum
        double *mask_total

    ctypedef struct gpt2c_workspace:
        ptrdiff_t chunk
        float *x
        float *norm
        float *attended
        float *qkv
        void *encoded
        void *hidden
        float *gemm
        float *scratch
        ptrdiff_t scratch_size
        ptrdiff_t key_blocks
        float *partial

    ctypedef struct gpt2c_observer:
        const unsigned char *flags
        float *branch
        float *pre
        float *post
        float *scores
        float *pattern
        const ptrdiff_t *pattern_start
        unsigned char *changed
        float *cross
        const ptrdiff_t *cross_start

    ctypedef struct gpt2c_call:
        const gpt2c_model *model
        const gpt2c_kernels *kernels
        int threads
        int external_gemm
        gpt2c_batch batch
        gpt2c_output output
        gpt2c_workspace workspace
        gpt2c_observer observer
        int (*poll)(void *) noexcept nogil
        void *poll_argument

    ptrdiff_t gpt2c_scratch_size(const gpt2c_model *, ptrdiff_t, int)
    ptrdiff_t gpt2c_key_blocks(const gpt2c_call *)
    ptrdiff_t gpt2c_plan(const gpt2c_call *, gpt2c_step *)
    ptrdiff_t gpt2c_plan_qkv(const gpt2c_call *, ptrdiff_t, ptrdiff_t, gpt2c_step *)
    const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *, const gpt2c_step *, const float **)
    int gpt2c_run(const gpt2c_call *, const gpt2c_step *, ptrdiff_t)


# The C core is linked into _kernels alone; other modules call it through these functions.

cdef const gpt2c_kernels *find_kernels(object isa) except NULL
cdef int threads_now(threads) except -1
cdef int warn_of_shortage() except -1
cdef aligned_bytes(size)
cdef void *memory_of(array) except? NULL
cdef rows_at(float *data, ptrdiff_t rows, ptrdiff_t n)
cdef gpt2c_dtype dtype_of(name) except *
cdef gpt2c_cache_dtype cache_dtype_of(name) except *

cdef void pack_panels(const gpt2c_dense *, void *, const float *, ptrdiff_t, bint, int) noexcept nogil
cdef void unpack_column(const gpt2c_dense *, ptrdiff_t, float *) noexcept nogil
cdef ptrdiff_t panel_size(gpt2c_dtype, ptrdiff_t) noexcept nogil
cdef ptrdiff_t keys_bytes(gpt2c_cache_dtype, ptrdiff_t) noexcept nogil
cdef ptrdiff_t values_bytes(gpt2c_cache_dtype, ptrdiff_t) noexcept nogil
cdef void parallel_for(int, ptrdiff_t, void (*)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil,
                       void *) noexcept nogil
cdef void empty_phases(int, ptrdiff_t) noexcept nogil

cdef ptrdiff_t scratch_size(const gpt2c_model *, ptrdiff_t, bint) noexcept nogil
cdef ptrdiff_t key_blocks(const gpt2c_call *) noexcept nogil
cdef ptrdiff_t plan_steps(const gpt2c_call *, gpt2c_step *) noexcept nogil
cdef ptrdiff_t plan_qkv(const gpt2c_call *, ptrdiff_t layer, ptrdiff_t rows, gpt2c_step *) noexcept nogil
cdef const gpt2c_dense *step_dense(const gpt2c_call *, const gpt2c_step *, const float **) noexcept nogil
cdef int run_steps(const gpt2c_call *, const gpt2c_step *, ptrdiff_t) noexcept nogil
