/* The one register tile that dense layers and attention are made of, and the dense layer itself. */

typedef enum {
    TILE_STORE,   /* c = a b, one fma chain from zero */
    TILE_ADD,     /* c += a b, where a b is one fma chain from zero */
    TILE_CONTINUE /* the chain goes on from c */
} tile_mode;

/* c[i][16 v + lane] (+)= sum over k of a[i][k] * b[k][v][lane] for i < rows, v < cols: row i of a starts at a + i lda,
 * row i of c at c + i ldc, and b[k][v] is the 16 floats at b + k ldb + v step. rows and cols are constants in every
 * instance, so that the accumulators live in registers. */
VEC_INLINE void tile(const int rows, const int cols, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda,
                     const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, tile_mode mode) {
    vf sum[GPT2C_TILE_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++)
            sum[i][v] = mode == TILE_CONTINUE ? v_load(c + i * ldc + v * GPT2C_LANES) : v_set1(0.0f);
    for (ptrdiff_t j = 0; j < k; j++) {
        vf wide[4];
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) wide[v] = v_load(b + j * ldb + v * step);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const vf one = v_set1(a[i * lda + j]);
#pragma GCC unroll 4
            for (int v = 0; v < cols; v++) sum[i][v] = v_fma(one, wide[v], sum[i][v]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) {
            float *to = c + i * ldc + v * GPT2C_LANES;
            v_store(to, mode == TILE_ADD ? v_add(v_load(to), sum[i][v]) : sum[i][v]);
        }
}

/* A tile of `rows` rows over `strips` vectors of columns, in the widest strips the registers allow. */
#define TILE_INSTANCE(rows)                                                                                            \
    static void tile_##rows(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb,     \
                            ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips, tile_mode mode) {                           \
        ptrdiff_t v = 0;                                                                                               \
        for (; v + TILE_COLS(rows) <= strips; v += TILE_COLS(rows))                                                    \
            tile(rows, TILE_COLS(rows), c + v * GPT2C_LANES, ldc, a, lda, b + v * step, ldb, step, k, mode);           \
        if (TILE_COLS(rows) > 1)                                                                                       \
            for (; v < strips; v++) tile(rows, 1, c + v * GPT2C_LANES, ldc, a, lda, b + v * step, ldb, step, k, mode); \
    }
TILE_INSTANCE(1)
TILE_INSTANCE(2)
TILE_INSTANCE(3)
TILE_INSTANCE(4)
TILE_INSTANCE(5)
TILE_INSTANCE(6)

static void tile_any(ptrdiff_t rows, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b,
                     ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips, tile_mode mode) {
    switch (rows) {
    case 1:
        tile_1(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    case 2:
        tile_2(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    case 3:
        tile_3(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    case 4:
        tile_4(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    case 5:
        tile_5(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    default:
        tile_6(c, ldc, a, lda, b, ldb, step, k, strips, mode);
        break;
    }
}

static void linear(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_dense *dense,
                   const gpt2c_epilogue *what, ptrdiff_t rows, ptrdiff_t panel0, ptrdiff_t panel1, float *scratch) {
    const ptrdiff_t tiles = (rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        const float *panel = dense->panels + p * dense->n_in * GPT2C_PANEL;
        for (ptrdiff_t k = 0; k < dense->n_in; k += GPT2C_K_BLOCK) {
            const ptrdiff_t count = dense->n_in - k < GPT2C_K_BLOCK ? dense->n_in - k : GPT2C_K_BLOCK;
            for (ptrdiff_t t = 0; t < tiles; t++) { /* tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1 */
                const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
                tile_any(height, scratch + row * GPT2C_PANEL, GPT2C_PANEL, x + row * ld_x + k, ld_x,
                         panel + k * GPT2C_PANEL, GPT2C_PANEL, GPT2C_LANES, count, GPT2C_PANEL / GPT2C_LANES,
                         k == 0 ? TILE_STORE : TILE_ADD);
            }
        }
        const ptrdiff_t column = p * GPT2C_PANEL, left = dense->n_out - column;
        const gpt2c_epilogue here = {what->function, what->residual ? what->residual + column : NULL};
        epilogue(out + column, ld_out, scratch, GPT2C_PANEL, dense->bias ? dense->bias + column : NULL, &here, rows,
                 left < GPT2C_PANEL ? left : GPT2C_PANEL);
    }
}
