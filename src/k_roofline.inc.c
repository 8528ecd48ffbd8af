/* The machine's limits: the roofs that benchmarks divide by. */

/* Enough independent chains to hide the latency, few enough for the registers. */
#if defined(GPT2C_ISA_AVX512)
enum { FLOAT_CHAINS = 16, INTEGER_CHAINS = 16 };
#elif defined(GPT2C_ISA_VNNI)
enum { FLOAT_CHAINS = 6, INTEGER_CHAINS = 6 };
#else
enum { FLOAT_CHAINS = 6, INTEGER_CHAINS = 3 }; /* vpmaddwd also needs registers for its products */
#endif

/* Four places at a time, each a little ahead of itself: of 1 to 8 places, without and with prefetches 2 to 32 KB ahead,
 * the fastest from memory and as fast as any from a cache. */
static float read_all(const float *x, ptrdiff_t n) {
    enum { PLACES = 4, AHEAD = 2048 };
    const ptrdiff_t part = n / (PLACES * GPT2C_LANES) * GPT2C_LANES;
    vf sum[PLACES] = {v_set1(0.0f), v_set1(0.0f), v_set1(0.0f), v_set1(0.0f)};
    for (ptrdiff_t i = 0; i < part; i += GPT2C_LANES)
#pragma GCC unroll 4
        for (int j = 0; j < PLACES; j++) {
            v_prefetch((uintptr_t)(x + j * part + i) + AHEAD);
            sum[j] = v_add(sum[j], v_load(x + j * part + i));
        }
    for (ptrdiff_t i = PLACES * part; i < n; i += GPT2C_LANES) sum[0] = v_add(sum[0], v_load_first(x + i, n - i));
    return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

/* One instruction, or its equivalent, per chain and step. */
VEC_INLINE double float_operations(const int pairs, ptrdiff_t steps, float *result) {
    const vf factor = v_set1(pairs ? -1.0f : 0.999f), term = v_set1(1e-6f);
    vf chain[FLOAT_CHAINS];
    for (int j = 0; j < FLOAT_CHAINS; j++) chain[j] = v_set1(*result + (float)j);
    for (ptrdiff_t i = 0; i < steps; i++)
#pragma GCC unroll 16
        for (int j = 0; j < FLOAT_CHAINS; j++)
            chain[j] = pairs ? v_dot2(factor, term, chain[j]) : v_fma(chain[j], factor, term);
    for (int j = 1; j < FLOAT_CHAINS; j++) chain[0] = v_add(chain[0], chain[j]);
    *result = v_sum(chain[0]);
    return (pairs ? 4.0 : 2.0) * FLOAT_CHAINS * GPT2C_LANES * (double)steps;
}

static double integer_operations(ptrdiff_t steps, float *result) {
    activation inputs[4] = {100, 100, -100, -100}; /* the sum is the same in both orders, so nothing overflows */
    uint8_t bytes[4 * GPT2C_LANES];
    for (int i = 0; i < 4 * GPT2C_LANES; i++) bytes[i] = (uint8_t)(77 + i / 32); /* halves differ: nothing is shared */
    const vq weights = v_bytes(v_load_bytes(bytes));
    va four = v_broadcast4(inputs);
    vi chain[INTEGER_CHAINS];
    for (int j = 0; j < INTEGER_CHAINS; j++) chain[j] = v_int_set1(j);
    for (ptrdiff_t i = 0; i < steps; i++)
#pragma GCC unroll 16
        for (int j = 0; j < INTEGER_CHAINS; j++) {
            v_forget(&four);
            chain[j] = v_dot4(chain[j], weights, four);
        }
    for (int j = 0; j < INTEGER_CHAINS; j++) *result += v_sum(v_to_float(chain[j]));
    return 8.0 * INTEGER_CHAINS * GPT2C_LANES * (double)steps;
}

#if defined(GPT2C_ISA_AMX)
/* Four tiles of sums a step. Zeros are multiplied; other numbers from a first-level cache took a sixth longer. */
static double amx_operations(gpt2c_dtype dtype, ptrdiff_t steps) {
    amx_shape(2 * AMX_ROWS);
    for (ptrdiff_t i = 0; i < steps; i++)
        if (dtype == GPT2C_BFLOAT16) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        } else {
            _tile_dpbsud(0, 4, 6);
            _tile_dpbsud(1, 4, 7);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
    _tile_release();
    return (dtype == GPT2C_BFLOAT16 ? 4.0 : 8.0) * AMX_ROWS * AMX_ROWS * GPT2C_PANEL * (double)steps;
}
#endif

static double operations(gpt2c_dtype dtype, ptrdiff_t steps, float *result) {
#if defined(GPT2C_ISA_AMX)
    if (dtype != GPT2C_FLOAT32) return amx_operations(dtype, steps);
#endif
    if (dtype == GPT2C_INT8 || dtype == GPT2C_INT4) return integer_operations(steps, result);
    return dtype == GPT2C_BFLOAT16 && BFLOAT16_PAIRS ? float_operations(1, steps, result)
                                                     : float_operations(0, steps, result);
}
