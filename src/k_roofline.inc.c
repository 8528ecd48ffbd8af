/* What the machine could do at best: the roofs that benchmarks divide by. */

#if defined(GPT2C_ISA_AVX512)
#define ROOF_CHAINS 12 /* enough independent chains to hide the latency, few enough for the registers */
#else
#define ROOF_CHAINS 6
#endif

static float read_all(const float *x, ptrdiff_t n) {
    vf sum[4] = {v_set1(0.0f), v_set1(0.0f), v_set1(0.0f), v_set1(0.0f)};
    for (ptrdiff_t i = 0; i + 4 * GPT2C_LANES <= n; i += 4 * GPT2C_LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[j] = v_add(sum[j], v_load(x + i + j * GPT2C_LANES));
    return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

static double multiply_add(ptrdiff_t steps, float *result) {
    const vf factor = v_set1(0.999f), term = v_set1(1e-6f);
    vf chain[ROOF_CHAINS];
    for (int j = 0; j < ROOF_CHAINS; j++) chain[j] = v_set1(*result + (float)j);
    for (ptrdiff_t i = 0; i < steps; i++)
#pragma GCC unroll 12
        for (int j = 0; j < ROOF_CHAINS; j++) chain[j] = v_fma(chain[j], factor, term);
    for (int j = 1; j < ROOF_CHAINS; j++) chain[0] = v_add(chain[0], chain[j]);
    *result = v_sum(chain[0]);
    return 2.0 * ROOF_CHAINS * GPT2C_LANES * (double)steps;
}
