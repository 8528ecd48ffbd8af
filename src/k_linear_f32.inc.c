/* The one register tile that dense layers and attention are made of, and the dense layer itself. */

/* c[i][16 v + lane] = add[…] + (from[…] + sum over k of a[i][k] * b[k][v][lane]) for i < rows, v < cols, the sum being
 * one fma chain that starts from `from` (NULL: zero); without `add` nothing is added. Row i of a starts at a + i lda;
 * rows of c, from and add at i ldc; b[k][v] is the 16 floats at b + k ldb + v step. from and add may be c. rows and
 * cols are constants in every instance, so that the accumulators live in registers. */
VEC_INLINE void tile(const int rows, const int cols, float *c, const float *from, const float *add, ptrdiff_t ldc,
                     const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k) {
    vf sum[GPT2C_TILE_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) sum[i][v] = from ? v_load(from + i * ldc + v * GPT2C_LANES) : v_set1(0.0f);
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
            const ptrdiff_t at = i * ldc + v * GPT2C_LANES;
            v_store(c + at, add ? v_add(v_load(add + at), sum[i][v]) : sum[i][v]);
        }
}

/* The strips of a tile, as wide as the registers allow; the columns that are left over one vector at a time. */
VEC_INLINE void tile_strips(const int rows, float *c, const float *from, const float *add, ptrdiff_t ldc,
                            const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k,
                            ptrdiff_t strips) {
    for (ptrdiff_t v = 0; v < strips;) {
        const ptrdiff_t at = v * GPT2C_LANES;
        const float *from_here = from ? from + at : NULL, *add_here = add ? add + at : NULL;
        if (v + TILE_COLS(rows) <= strips) {
            tile(rows, TILE_COLS(rows), c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k);
            v += TILE_COLS(rows);
        } else {
            tile(rows, 1, c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k);
            v++;
        }
    }
}

/* The same for any number of rows up to GPT2C_TILE_ROWS, and `strips` vectors of columns. */
static void tile_any(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                     ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips) {
#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        tile_strips(n, c, from, add, ldc, a, lda, b, ldb, step, k, strips);                                            \
        break
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
    default:
        break;
    }
#undef TILE_CASE
}

/* A block of a panel (64 KB) is taken in parts that stay in a first-level cache while all rows go over them; a chain
 * that is interrupted between two parts waits in `chain`. */
enum { K_PART = 128 };

static void linear(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_dense *dense,
                   const gpt2c_epilogue *what, ptrdiff_t rows, ptrdiff_t panel0, ptrdiff_t panel1, float *scratch) {
    const ptrdiff_t tiles = (rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    const ptrdiff_t part = tiles > 1 ? K_PART : GPT2C_K_BLOCK;
    float *total = scratch, *chain = scratch + rows * GPT2C_PANEL;
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        const float *panel = dense->panels + p * dense->n_in * GPT2C_PANEL;
        for (ptrdiff_t k = 0, end; k < dense->n_in; k = end) {
            end = k + part < dense->n_in ? k + part : dense->n_in;
            const int begins = k % GPT2C_K_BLOCK == 0, ends = end % GPT2C_K_BLOCK == 0 || end == dense->n_in;
            for (ptrdiff_t t = 0; t < tiles; t++) { /* tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1 */
                const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row, at = row * GPT2C_PANEL;
                tile_any(height, ends ? total + at : chain + at, begins ? NULL : chain + at,
                         ends && k >= GPT2C_K_BLOCK ? total + at : NULL, GPT2C_PANEL, x + row * ld_x + k, ld_x,
                         panel + k * GPT2C_PANEL, GPT2C_PANEL, GPT2C_LANES, end - k, GPT2C_PANEL / GPT2C_LANES);
            }
        }
        const ptrdiff_t column = p * GPT2C_PANEL, left = dense->n_out - column;
        const gpt2c_epilogue here = {what->function, what->residual ? what->residual + column : NULL};
        epilogue(out + column, ld_out, total, GPT2C_PANEL, dense->bias ? dense->bias + column : NULL, &here, rows,
                 left < GPT2C_PANEL ? left : GPT2C_PANEL);
    }
}
