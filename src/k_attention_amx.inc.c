/* Attention over a block of bfloat16 keys and values in tile registers: of up to 32 queries, whose heads are a multiple
 * of 32 wide. The sums are those of a bfloat16 layer: per 32 inputs or keys one chain of the even and one of the odd.
 */

/* scores[rows][128] of the first `seen` keys of a block, and of some more. */
static void amx_scores(float *scores, const float *q, ptrdiff_t ld_q, const block_keys *at, ptrdiff_t rows,
                       ptrdiff_t seen) {
    enum { STEP = PAIRS_STEP / 2 * GPT2C_LANES, SCORES = GPT2C_KEY_BLOCK * (ptrdiff_t)sizeof(float) };
    const ptrdiff_t steps = at->key_steps * 2 / PAIRS_STEP, groups = (seen + GPT2C_LANES - 1) / GPT2C_LANES;
    const ptrdiff_t shared = at->shared / GPT2C_LANES, size = steps * STEP, ld = ld_q * (ptrdiff_t)sizeof *q;
    const int two = rows > AMX_ROWS;
    __asm__ volatile("" : : "r"(q), "r"(at) : "memory"); /* as for dense layers */
    amx_shape(rows);
    for (ptrdiff_t g = 0; g < groups; g += 2) {
        const float *first = g < shared ? at->k0 + g * size : at->k + (g - shared) * size;
        const float *second = g + 1 < shared ? at->k0 + (g + 1) * size : at->k + (g + 1 - shared) * size;
        const int both = g + 1 < groups;
        amx_zero();
        for (ptrdiff_t s = 0; s < steps; s++) {
            _tile_loadd(4, q + s * GPT2C_LANES, ld);
            _tile_loadd(6, first + s * STEP, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (both) {
                _tile_loadd(7, second + s * STEP, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (!two) continue;
            _tile_loadd(5, q + AMX_ROWS * ld_q + s * GPT2C_LANES, ld);
            _tile_dpbf16ps(2, 5, 6);
            if (both) _tile_dpbf16ps(3, 5, 7);
        }
        amx_store(scores + g * GPT2C_LANES, SCORES, two);
    }
    _tile_release();
}

/* The values of keys [key, key + 32) of a block, with those from `seen` on zero; returns whether those of the
 * keys from `common` on are finite. */
static int copy_values(float *out, const block_keys *at, ptrdiff_t key, ptrdiff_t common, ptrdiff_t seen,
                       ptrdiff_t d_pad) {
    vf nothing = v_set1(0.0f); /* the sum of all values times zero: NaN if one is not finite */
    for (ptrdiff_t k = key; k < key + PAIRS_STEP; k += 2, out += d_pad) {
        const float *from = k < at->shared ? at->v0 + k / 2 * d_pad : at->v + (k - at->shared) / 2 * d_pad;
        for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES) {
            vf first = v_set1(0.0f), second = first;
            if (k < seen) first = v_high_halves(v_load_bytes((const uint8_t *)(const void *)(from + c)));
            if (k + 1 < seen) second = v_low_halves(v_load_bytes((const uint8_t *)(const void *)(from + c)));
            v_store(out + c, v_pair(first, second));
            if (k >= common) nothing = v_fma(first, v_set1(0.0f), nothing);
            if (k + 1 >= common) nothing = v_fma(second, v_set1(0.0f), nothing);
        }
    }
    return v_sum(nothing) == 0.0f;
}

/* Rows of partial: the values of the first `seen` keys of a block, weighted by words of two weights, which are zero for
 * keys that a row does not see. All rows see the first `common` keys. 0, and nothing is written, if a value that some
 * may not see is not finite: its product with zero would be NaN. */
static int amx_values(float *partial, ptrdiff_t ld_partial, const float *weights, const block_keys *at, ptrdiff_t rows,
                      ptrdiff_t common, ptrdiff_t seen, ptrdiff_t d_pad) {
    const ptrdiff_t steps = (seen + PAIRS_STEP - 1) / PAIRS_STEP,
                    ld_weights = GPT2C_KEY_BLOCK * (ptrdiff_t)sizeof(float);
    const ptrdiff_t ld = d_pad * (ptrdiff_t)sizeof(float), ld_out = ld_partial * (ptrdiff_t)sizeof(float);
    const float *values[GPT2C_KEY_BLOCK / PAIRS_STEP];
    const int two = rows > AMX_ROWS;
    for (ptrdiff_t s = 0; s < steps; s++) {
        const ptrdiff_t key = s * PAIRS_STEP, end = key + PAIRS_STEP;
        if (end <= common && (key >= at->shared || end <= at->shared)) {
            values[s] = end <= at->shared ? at->v0 + key / 2 * d_pad : at->v + (key - at->shared) / 2 * d_pad;
            continue;
        }
        float *copy = at->room + s * PAIRS_STEP / 2 * d_pad;
        if (!copy_values(copy, at, key, common, seen, d_pad)) return 0;
        values[s] = copy;
    }
    __asm__ volatile("" : : "r"(weights), "r"(values) : "memory");
    amx_shape(rows);
    for (ptrdiff_t c = 0; c < d_pad; c += 2 * GPT2C_LANES, partial += 2 * GPT2C_LANES) {
        amx_zero();
        for (ptrdiff_t s = 0; s < steps; s++) {
            _tile_loadd(4, weights + s * GPT2C_LANES, ld_weights);
            _tile_loadd(6, values[s] + c, ld);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, values[s] + c + GPT2C_LANES, ld);
            _tile_dpbf16ps(1, 4, 7);
            if (!two) continue;
            _tile_loadd(5, weights + AMX_ROWS * GPT2C_KEY_BLOCK + s * GPT2C_LANES, ld_weights);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        amx_store(partial, ld_out, two);
    }
    _tile_release();
    return 1;
}
