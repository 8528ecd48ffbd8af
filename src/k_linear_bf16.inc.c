/* The sums of a panel of bfloat16 weights, half after half. */

/* ---- without an instruction for pairs ---- */

#if !BFLOAT16_PAIRS
/* Over words that are two bfloat16 weights each. */
static void tile_halves(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                        ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                        stream *ahead) {
    tile_rows(PANEL_PAIRS, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}

/* The weights of both halves of `words` pairs of inputs as floats [2 words][64]. */
static void widen(float *to, const uint8_t *panel, ptrdiff_t half, ptrdiff_t words) {
    for (ptrdiff_t k = 0; k < words; k++, to += 2 * GPT2C_PANEL)
        for (int v = 0; v < 4; v++) {
            const uint8_t *from = panel + v / 2 * half + k / GPT2C_LANES * 2 * PAIRS_TILE + v % 2 * PAIRS_TILE;
            const vb pairs = v_load_bytes(from + k % GPT2C_LANES * 4 * GPT2C_LANES);
            v_store(to + v * GPT2C_LANES, v_high_halves(pairs));
            v_store(to + GPT2C_PANEL + v * GPT2C_LANES, v_low_halves(pairs));
        }
}

/* total[rows][64]; scratch: GPT2C_LINEAR_SCRATCH less total. Weights that many rows multiply are widened once for all.
 */
static void sums_of_halves(float *total, const float *x, ptrdiff_t ld, const uint8_t *panel, ptrdiff_t n_in,
                           ptrdiff_t rows, float *scratch) {
    const ptrdiff_t tiles = (rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS, words = (n_in + 1) / 2;
    const ptrdiff_t part = (tiles > 1 ? GPT2C_K_PART : SINGLE_PART) / 2;
    const ptrdiff_t half = (n_in + PAIRS_STEP - 1) / PAIRS_STEP * 2 * PAIRS_TILE;
    const int widened = tiles > 3;
    float *chain = scratch, *wide = scratch + rows * GPT2C_PANEL;
    for (int h = 0; h < (widened ? 1 : 2); h++)
        for (ptrdiff_t k = 0, end; k < words; k = end) {
            end = k + part < words ? k + part : words;
            const uint8_t *from = panel + h * half + k / GPT2C_LANES * 2 * PAIRS_TILE;
            weights_part w = {.tile = tile_halves,
                              .b = (const float *)(const void *)from,
                              .ldb = GPT2C_LANES,
                              .step = PAIRS_TILE / (ptrdiff_t)sizeof(float),
                              .k = end - k,
                              .strips = 2,
                              .next = (uintptr_t)from + (uintptr_t)((end - k) * 8 * GPT2C_LANES)};
            if (widened) {
                widen(wide, from, half, end - k);
                w = (weights_part){tile_any, wide, GPT2C_PANEL, GPT2C_LANES, 2 * (end - k), 4, w.next};
            }
            add_part(total + 2 * h * GPT2C_LANES, chain, x + 2 * k, ld, &w, rows, 2 * k,
                     end == words || 2 * end % GPT2C_K_BLOCK == 0);
        }
}
#endif

/* ---- vdpbf16ps ---- */

#if defined(GPT2C_ISA_BF16)
enum { BLOCK_STEPS = GPT2C_K_BLOCK / PAIRS_STEP }; /* 16 KB of weights stay in a first-level cache */

/* total[i][16 v + lane] (64 apart) = (begins ? 0 : total[…]) + one chain over `steps` steps, for i < rows, v < 2. */
VEC_INLINE void tile_pairs(const int rows, float *total, const activation *x, ptrdiff_t ld, const uint8_t *weights,
                           ptrdiff_t steps, int begins, stream *ahead) {
    vf sum[QUAD_ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) sum[i][v] = v_set1(0.0f);
    const activation *row[(QUAD_ROWS + 3) / 4]; /* twelve lines by three addresses and multiples of ld */
#pragma GCC unroll 3
    for (int i = 0; i < rows; i += 4) {
        row[i / 4] = x + i * ld;
        v_hide(row[i / 4]);
    }
    const int at_once = rows <= FEW_LINES ? 1 : 2; /* few rows wait for memory, which is read in order */
    uintptr_t next = ahead->from;
    const ptrdiff_t share = ahead->share;
    for (ptrdiff_t s = 0; s < steps; s++, weights += 2 * PAIRS_TILE) {
        if (rows == QUAD_ROWS) stream_on(ahead, 2 * PAIRS_TILE / 64);
        if (rows > FEW_LINES && share < 64) /* the lines of the next tile, if there is one: they are far apart */
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) v_prefetch((uintptr_t)(row[i / 4] + (i % 4 + rows) * ld));
#pragma GCC unroll 2
        for (int first = 0; first < 2; first += at_once)
#pragma GCC unroll 4
            for (int r = 0; r < GPT2C_LANES; r++, next += (uintptr_t)(at_once * share)) {
                vf wide[2];
#pragma GCC unroll 2
                for (int v = 0; v < at_once; v++) {
                    const uint8_t *from = weights + (first + v) * PAIRS_TILE + 4 * r * GPT2C_LANES;
                    if (rows < QUAD_ROWS) v_prefetch(next + (uintptr_t)(v * share));
                    wide[v] = v_load_once((const float *)(const void *)from);
                }
#pragma GCC unroll 12
                for (int i = 0; i < rows; i++) {
                    const vf pair = v_set1(*(const float *)(const void *)(row[i / 4] + i % 4 * ld + 4 * r));
#pragma GCC unroll 2
                    for (int v = 0; v < at_once; v++) sum[i][first + v] = v_dot2(pair, wide[v], sum[i][first + v]);
                }
            }
#pragma GCC unroll 3
        for (int i = 0; i < rows; i += 4) row[i / 4] += STEP_OF_LINES;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            float *to = total + i * GPT2C_PANEL + v * GPT2C_LANES;
            v_store(to, begins ? sum[i][v] : v_add(v_load(to), sum[i][v]));
        }
}

static void tile_pairs_any(ptrdiff_t rows, float *total, const activation *x, ptrdiff_t ld, const uint8_t *weights,
                           ptrdiff_t steps, int begins, stream *ahead) {
#define PAIRS_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        tile_pairs(n, total, x, ld, weights, steps, begins, ahead);                                                    \
        break;
    switch (rows) {
        FIRST_12(PAIRS_CASE)
    default:
        break;
    }
#undef PAIRS_CASE
}

/* total[rows][64] of rows from row0 on. */
static void sums_of_pairs(float *total, const void *x, ptrdiff_t row0, const gpt2c_dense *dense, const uint8_t *panel,
                          ptrdiff_t rows) {
    const line_shape s = lines_of(dense);
    const ptrdiff_t tiles = (rows + QUAD_ROWS - 1) / QUAD_ROWS;
    for (int half = 0; half < 2; half++)
        for (ptrdiff_t step = 0; step < s.steps; step += BLOCK_STEPS) {
            const ptrdiff_t left = s.steps - step, steps = left < BLOCK_STEPS ? left : BLOCK_STEPS;
            const uint8_t *next = panel + steps * 2 * PAIRS_TILE;
            for (ptrdiff_t t = 0; t < tiles; t++) {
                const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
                stream ahead = stream_ahead((uintptr_t)panel, (uintptr_t)next, steps * 2 * PAIRS_TILE / 64, t, tiles);
                tile_pairs_any(height, total + row * GPT2C_PANEL + half * HALF_OUTPUTS,
                               integers_of_line(x, &s, row0 + row) + step * STEP_OF_LINES, lines_apart(&s), panel,
                               steps, step == 0, &ahead);
            }
            panel = next;
        }
}
#endif
