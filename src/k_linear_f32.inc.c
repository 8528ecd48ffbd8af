/* The register tile that float layers and attention use, and the sums of a panel of float weights. */

/* What a tile's b is: floats; float16; or words of two bfloat16, for two neighbouring k, which are multiplied by such
 * words of a, or where the ISA has no instruction for that by two floats of a. Of a panel's words, after each 16 rows
 * `step` floats are left out. */
enum { FLOATS, FLOAT16S, PAIRS, PANEL_PAIRS };

#if defined(GPT2C_ISA_BF16)
enum { PAIRS_TWICE = 0 }; /* whether a word of PAIRS takes two instructions, and two floats of a */
#else
enum { PAIRS_TWICE = 1 };
#endif
VEC_INLINE int takes_two(const int kind) { return kind == PANEL_PAIRS || (kind == PAIRS && PAIRS_TWICE); }

enum { TILE_STEPS = 16 }; /* unrolled at a time */

/* c[i][16 v + lane] = add[…] + (from[…] + sum over k of a[i][k] * b[k][v][lane]) for i < rows, v < cols, the sum being
 * one fma chain that starts from `from` (NULL: zero); without `add` nothing is added. Row i of a starts at a + i lda;
 * rows of c, from and add at i ldc; b[k][v] is the 16 numbers or words at b + k ldb + v step. from and add may be c.
 * rows and cols are constants in every instance, so that the accumulators live in registers. What is read next is asked
 * for from `ahead`. */
VEC_INLINE void tile(const int kind, const int rows, const int cols, float *c, const float *from, const float *add,
                     ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step,
                     ptrdiff_t k, stream *ahead) {
    vf sum[GPT2C_TILE_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) sum[i][v] = from ? v_load(from + i * ldc + v * GPT2C_LANES) : v_set1(0.0f);
    const int twice = takes_two(kind);
    const ptrdiff_t a_step = twice ? 2 : 1;
    const float *a3 = a + 3 * lda; /* six rows by two addresses and multiples of lda */
    v_hide(a3);
    uintptr_t next = ahead->from;
    const ptrdiff_t share = ahead->share;
    ahead->from += (uintptr_t)(rows < GPT2C_TILE_ROWS ? k * cols * share : 0);
    for (ptrdiff_t begin = 0; begin < k; begin += TILE_STEPS) {
        const ptrdiff_t end = k - begin < TILE_STEPS ? k - begin : TILE_STEPS;
        if (rows == GPT2C_TILE_ROWS) stream_on(ahead, end * cols);
        if (rows > 3 && share < 64) /* the a of the next tile, if there is one: its rows are far apart */
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) v_prefetch((uintptr_t)a + 4 * (uintptr_t)((i + rows) * lda));
        for (ptrdiff_t j = 0; j < end; j++, b += ldb, a += a_step, a3 += a_step, next += (uintptr_t)(cols * share)) {
            vf wide[4], second[4];
#pragma GCC unroll 4
            for (int v = 0; v < cols; v++) {
                const float *words = b + v * step;
                if (rows < GPT2C_TILE_ROWS) v_prefetch(next + (uintptr_t)(v * share));
                if (twice) {
                    const vb halves = v_load_bytes((const uint8_t *)(const void *)words);
                    wide[v] = v_high_halves(halves);
                    second[v] = v_low_halves(halves);
                } else if (kind == FLOAT16S)
                    wide[v] = v_load_float16((const uint16_t *)(const void *)words);
                else
                    wide[v] = rows > 1 ? v_load_once(words) : v_load(words);
            }
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                const vf one = v_set1(i < 3 ? a[i * lda] : a3[(i - 3) * lda]);
#pragma GCC unroll 4
                for (int v = 0; v < cols; v++)
                    sum[i][v] =
                        kind == PAIRS && !twice ? v_dot2(one, wide[v], sum[i][v]) : v_fma(one, wide[v], sum[i][v]);
            }
            if (!twice) continue;
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                const vf one = v_set1(i < 3 ? a[i * lda + 1] : a3[(i - 3) * lda + 1]);
#pragma GCC unroll 4
                for (int v = 0; v < cols; v++) sum[i][v] = v_fma(one, second[v], sum[i][v]);
            }
        }
        if (kind == PANEL_PAIRS) b += step;
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) {
            const ptrdiff_t at = i * ldc + v * GPT2C_LANES;
            v_store(c + at, add ? v_add(v_load(add + at), sum[i][v]) : sum[i][v]);
        }
}

/* The strips of a tile, as wide as the registers allow; the remaining columns one vector at a time. */
VEC_INLINE void tile_strips(const int kind, const int rows, float *c, const float *from, const float *add,
                            ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step,
                            ptrdiff_t k, ptrdiff_t strips, stream *ahead) {
    stream none = {0, 0};
    const int cols = takes_two(kind) && TILE_COLS(rows) > 2 ? 2 : TILE_COLS(rows);
    for (ptrdiff_t v = 0; v < strips;) {
        const ptrdiff_t at = v * GPT2C_LANES;
        const float *from_here = from ? from + at : NULL, *add_here = add ? add + at : NULL;
        if (v + cols <= strips) {
            tile(kind, rows, cols, c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k, ahead);
            v += cols;
        } else {
            tile(kind, rows, 1, c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k, &none);
            v++;
        }
    }
}

/* The same for any number of rows up to GPT2C_TILE_ROWS, and `strips` vectors of columns. */
VEC_INLINE void tile_rows(const int kind, ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc,
                          const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k,
                          ptrdiff_t strips, stream *ahead) {
#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        tile_strips(kind, n, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);                               \
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

static void tile_any(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                     ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                     stream *ahead) {
    tile_rows(FLOATS, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}

/* A block of a panel (64 KB) is split into parts that stay in a first-level cache while all rows go over them; a chain
 * that is interrupted between two parts waits in `chain`. */
typedef struct {
    void (*tile)(ptrdiff_t, float *, const float *, const float *, ptrdiff_t, const float *, ptrdiff_t, const float *,
                 ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, stream *);
    const float *b;
    ptrdiff_t ldb, step, k, strips;
    uintptr_t next; /* the data read after it */
} weights_part;

/* Rows of a single tile go over all strips of a part before the next part, so that memory is read in order. */
enum { SINGLE_PART = TILE_COLS(GPT2C_TILE_ROWS) == GPT2C_PANEL / GPT2C_LANES ? GPT2C_K_BLOCK : 32 };

/* The part of total[rows][64] that begins with input k0; ends: whether the chain of its block ends with it. */
static void add_part(float *total, float *chain, const float *x, ptrdiff_t ld, const weights_part *w, ptrdiff_t rows,
                     ptrdiff_t k0, int ends) {
    const ptrdiff_t tiles = (rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    const int begins = k0 % GPT2C_K_BLOCK == 0, adds = ends && k0 >= GPT2C_K_BLOCK;
    for (ptrdiff_t t = 0; t < tiles; t++) { /* tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1 */
        const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row, at = row * GPT2C_PANEL;
        stream ahead = stream_ahead((uintptr_t)w->b, w->next, w->k * w->strips, t, tiles);
        w->tile(height, ends ? total + at : chain + at, begins ? NULL : chain + at, adds ? total + at : NULL,
                GPT2C_PANEL, x + row * ld, ld, w->b, w->ldb, w->step, w->k, w->strips, &ahead);
    }
}

/* total[rows][64] = the sums of one panel of float32 weights. scratch: GPT2C_LINEAR_SCRATCH less total. */
static void sums_of_floats(float *total, const float *x, ptrdiff_t ld, const float *panel, ptrdiff_t n_in,
                           ptrdiff_t rows, float *scratch) {
    const ptrdiff_t part = rows > GPT2C_TILE_ROWS ? GPT2C_K_PART : SINGLE_PART;
    for (ptrdiff_t k = 0, end; k < n_in; k = end) {
        end = k + part < n_in ? k + part : n_in;
        const weights_part w = {tile_any,
                                panel + k * GPT2C_PANEL,
                                GPT2C_PANEL,
                                GPT2C_LANES,
                                end - k,
                                4,
                                (uintptr_t)(panel + end * GPT2C_PANEL)};
        add_part(total, scratch, x + k, ld, &w, rows, k, end % GPT2C_K_BLOCK == 0 || end == n_in);
    }
}
