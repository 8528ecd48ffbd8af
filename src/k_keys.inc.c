/* The keys and values of a block in the form that attention multiplies, and the queries. */

/* How many keys of the block that begins at `key` the query at `position` may see. */
VEC_INLINE ptrdiff_t keys_seen(ptrdiff_t position, ptrdiff_t key) {
    return position + 1 - key < GPT2C_KEY_BLOCK ? position + 1 - key : GPT2C_KEY_BLOCK;
}

/* One block: its first `shared` positions at k0 and v0, the others at k and v. Distances are in floats. */
typedef struct {
    const float *k0, *v0, *k, *v;
    ptrdiff_t key, shared;
    int kind;                                 /* of a tile's b */
    ptrdiff_t key_ld, key_steps;              /* from one input, or pair of them, to the next; how many these are */
    ptrdiff_t value_ld, value_step, together; /* from one position, or pair, to the next; of 16 columns; 1, or 2 */
    ptrdiff_t weights_together;               /* weights in a word of a; on AMX two go with tiles */
    ptrdiff_t share;                          /* of a stream that goes over them */
    float *room;                              /* for values whose neighbours may not be touched */
} block_keys;

/* Queries at positions first, first + advance, …; advance is 1 or 0. */
typedef struct {
    const float *q;
    ptrdiff_t ld, first, advance;
} queries;

VEC_INLINE ptrdiff_t position_in(queries q, ptrdiff_t i) { return q.first + i * q.advance; }

/* Whether queries and weights of a bfloat16 cache are words of two: otherwise floats with 16 zero bits. */
VEC_INLINE int in_words(ptrdiff_t d_head) {
#if defined(GPT2C_ISA_AMX)
    return d_head % PAIRS_STEP == 0;
#else
    (void)d_head;
    return !PAIRS_TWICE;
#endif
}

/* After scores and partial results. */
VEC_INLINE float *room_of(float *scratch, ptrdiff_t d_pad) {
    return scratch + GPT2C_QUERIES * (GPT2C_KEY_BLOCK + 2 * GPT2C_PARTIAL(d_pad));
}

/* Floats of a rounded query. */
#define ROUNDED(d_head) (((d_head) + GPT2C_GROUP - 1) / GPT2C_GROUP * GPT2C_GROUP)

/* As the keys need them; rounded ones are the first thing in `room`. */
static queries queries_of(const gpt2c_keys *keys, const float *q, ptrdiff_t ld_q, ptrdiff_t rows, ptrdiff_t first,
                          ptrdiff_t advance, ptrdiff_t d_head, float *room) {
    if (keys->dtype != GPT2C_CACHE_BFLOAT16) return (queries){q, ld_q, first, advance};
    const int words = in_words(d_head);
    const ptrdiff_t ld = ROUNDED(d_head) / (words ? 2 : 1);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t k = 0; k < d_head; k += GPT2C_GROUP) {
            vf part[4];
            if (words) {
                pack_pairs(room + i * ld + k / 2, q + i * ld_q + k, d_head - k);
                continue;
            }
            load_rounded(part, q + i * ld_q + k, d_head - k);
            for (int v = 0; v < 4; v++) v_store(room + i * ld + k + v * GPT2C_LANES, part[v]);
        }
    return (queries){room, ld, first, advance};
}

/* Weights, which are zero beyond `seen` up to a multiple of 16, as words of two; zeros up to the end of the block. */
static void pack_weights(float *weights, ptrdiff_t seen) {
    const ptrdiff_t end = GPT2C_PAD(seen);
    const vf zero = v_set1(0.0f);
    ptrdiff_t j = 0;
    for (; j < end; j += 2 * GPT2C_LANES) {
        const vf second = j + GPT2C_LANES < end ? v_load(weights + j + GPT2C_LANES) : zero;
        v_store(weights + j / 2, v_pack_pairs(v_load(weights + j), second));
    }
    for (; j < GPT2C_KEY_BLOCK; j += 2 * GPT2C_LANES) v_store(weights + j / 2, zero);
}

/* Words of two positions as floats, position after position. */
static void widen_values(float *out, const float *words, ptrdiff_t positions, ptrdiff_t d_pad) {
    for (ptrdiff_t p = 0; p < positions; p++, out += d_pad)
        for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES) {
            const vb pairs = v_load_bytes((const uint8_t *)(const void *)(words + p / 2 * d_pad + c));
            v_store(out + c, p % 2 ? v_low_halves(pairs) : v_high_halves(pairs));
        }
}

/* For floats; their addresses are left open. */
static block_keys block_of_floats(ptrdiff_t key, ptrdiff_t shared, ptrdiff_t d_head) {
    return (block_keys){.key = key,
                        .shared = shared,
                        .kind = FLOATS,
                        .key_ld = GPT2C_LANES,
                        .key_steps = d_head,
                        .value_ld = GPT2C_PAD(d_head),
                        .value_step = GPT2C_LANES,
                        .together = 1,
                        .weights_together = 1,
                        .share = 64};
}

/* float16 keys and values of a block as floats in `room`. */
static block_keys widened(const block_keys *at, ptrdiff_t most, ptrdiff_t d_head, float *room) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), shared = at->shared;
    block_keys wide = block_of_floats(at->key, 0, d_head);
    float *k = room, *v = room + GPT2C_KEY_BLOCK * d_pad;
    wide.k0 = wide.k = k, wide.v0 = wide.v = v;
    wide.share = 0; /* the next data is prefetched while this is widened */
    if (shared > 0) {
        widen_halves(k, (const uint16_t *)(const void *)at->k0, shared * d_head);
        widen_halves(v, (const uint16_t *)(const void *)at->v0, shared * d_pad);
    }
    widen_halves(k + shared * d_head, (const uint16_t *)(const void *)at->k, (GPT2C_PAD(most) - shared) * d_head);
    widen_halves(v + shared * d_pad, (const uint16_t *)(const void *)at->v, (most - shared) * d_pad);
    return wide;
}

/* Of the block that begins at `key`, its first `most` positions, for `rows` queries. room: for rounded queries,
 * or float16 data for many rows, widened once for all. */
static block_keys block_at(const gpt2c_keys *from, ptrdiff_t key, ptrdiff_t most, ptrdiff_t rows, ptrdiff_t d_head,
                           float *room) {
    /* The block's first keys are in the shared part of the cache, the others in its own. */
    const ptrdiff_t before = from->shared - key, own = before < 0 ? -before : 0;
    const ptrdiff_t shared = before < 0 ? 0 : before < GPT2C_KEY_BLOCK ? before : GPT2C_KEY_BLOCK;
    block_keys at = block_of_floats(key, shared, d_head);
    if (from->dtype == GPT2C_CACHE_FLOAT16)
        at.kind = FLOAT16S, at.key_ld /= 2, at.value_ld /= 2, at.value_step /= 2, at.share /= 2;
    if (from->dtype == GPT2C_CACHE_BFLOAT16) {
        at.kind = PAIRS, at.key_steps = (d_head + 1) / 2, at.together = 2;
        at.weights_together = in_words(d_head) ? 2 : 1;
        at.room = room + GPT2C_QUERIES * ROUNDED(d_head);
    }
    const ptrdiff_t group = at.key_steps * at.key_ld; /* floats of 16 keys */
    at.k0 = at.k = (const float *)from->k + own / GPT2C_LANES * group;
    at.v0 = at.v = (const float *)from->v + own / at.together * at.value_ld;
    if (shared > 0) {
        at.k0 = (const float *)from->k0 + key / GPT2C_LANES * group;
        at.v0 = (const float *)from->v0 + key / at.together * at.value_ld;
    }
    return at.kind == FLOAT16S && rows > GPT2C_TILE_ROWS ? widened(&at, most, d_head, room) : at;
}

static void tile_float16s(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                          ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                          stream *ahead) {
    tile_rows(FLOAT16S, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}
static void tile_pairs_of_keys(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc,
                               const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step,
                               ptrdiff_t k, ptrdiff_t strips, stream *ahead) {
    tile_rows(PAIRS, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}

/* tile_any for b of any kind. */
static void tile_kind(int kind, ptrdiff_t rows, float *c, const float *from, ptrdiff_t ldc, const float *a,
                      ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                      stream *ahead) {
    (kind == FLOATS     ? tile_any
     : kind == FLOAT16S ? tile_float16s
                        : tile_pairs_of_keys)(rows, c, from, NULL, ldc, a, lda, b, ldb, step, k, strips, ahead);
}
