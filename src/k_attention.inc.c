/* Causal attention over a cache, for some consecutive queries of one head, or of several heads at one position. */

/* scores[0 … valid) are multiplied by scale, with -inf up to a multiple of 16; returns the greatest. Scores beyond are
 * of keys that this query may not see (or that were never written): they are replaced, never computed with. */
VEC_INLINE float scale_scores(float *scores, ptrdiff_t valid, float scale) {
    const vf factor = v_set1(scale), nothing = v_set1(-INFINITY);
    const ptrdiff_t whole = valid - valid % GPT2C_LANES;
    vf greatest = nothing;
    for (ptrdiff_t j = 0; j < whole; j += GPT2C_LANES) {
        const vf score = v_mul(v_load(scores + j), factor);
        v_store(scores + j, score);
        greatest = v_max(greatest, score);
    }
    if (whole < valid) {
        const vf score = v_keep_first(v_mul(v_load(scores + whole), factor), valid - whole, nothing);
        v_store(scores + whole, score);
        greatest = v_max(greatest, score);
    }
    return v_max_lane(greatest);
}

/* Scaled scores become weights exp(score - maximum), rounded to bfloat16 if so wanted; returns their sum. */
VEC_INLINE float exponentials(float *scores, ptrdiff_t valid, float maximum, int rounded) {
    const vf shift = v_set1(maximum);
    vf sum = v_set1(0.0f);
    for (ptrdiff_t j = 0; j < valid; j += GPT2C_LANES) {
        vf weight = v_exp(v_sub(v_load(scores + j), shift));
        if (rounded) weight = v_to_bfloat16(weight);
        v_store(scores + j, weight);
        sum = v_add(sum, weight);
    }
    return v_sum(sum);
}

/* Scores of rows [begin, rows) of queries with the keys of a block, not scaled yet: [rows][128]. */
static void scores_of_block(float *scores, queries q, const block_keys *at, ptrdiff_t begin, ptrdiff_t rows,
                            stream after) {
    const ptrdiff_t step = at->key_steps * at->key_ld;
#if defined(GPT2C_ISA_AMX)
    if (at->weights_together == 2) {
        amx_scores(scores + begin * GPT2C_KEY_BLOCK, q.q + begin * q.ld, q.ld, at, rows - begin,
                   keys_seen(position_in(q, rows - 1), at->key));
        return;
    }
#endif
    for (ptrdiff_t row = begin, height; row < rows; row += height) {
        height = rows - row < GPT2C_TILE_ROWS ? rows - row : GPT2C_TILE_ROWS;
        const ptrdiff_t rest = keys_seen(position_in(q, row + height - 1), at->key) - at->shared;
        float *to = scores + row * GPT2C_KEY_BLOCK;
        if (at->shared > 0)
            tile_kind(at->kind, height, to, NULL, GPT2C_KEY_BLOCK, q.q + row * q.ld, q.ld, at->k0, at->key_ld, step,
                      at->key_steps, at->shared / GPT2C_LANES, &after);
        if (rest > 0)
            tile_kind(at->kind, height, to + at->shared, NULL, GPT2C_KEY_BLOCK, q.q + row * q.ld, q.ld, at->k,
                      at->key_ld, step, at->key_steps, (rest + GPT2C_LANES - 1) / GPT2C_LANES, &after);
        after.share = 0; /* the first rows have prefetched everything */
    }
}

/* Row i of partial: the values that query i sees, weighted. */
static void values_of_block(float *partial, ptrdiff_t ld_partial, const float *weights, queries q, const block_keys *at,
                            ptrdiff_t begin, ptrdiff_t rows, ptrdiff_t d_pad, stream after) {
#if defined(GPT2C_ISA_AMX)
    if (at->weights_together == 2) {
        const ptrdiff_t seen = keys_seen(position_in(q, rows - 1), at->key);
        if (amx_values(partial + begin * ld_partial, ld_partial, weights + begin * GPT2C_KEY_BLOCK, at, rows - begin,
                       keys_seen(position_in(q, begin), at->key), seen, d_pad))
            return;
        for (ptrdiff_t i = begin; i < rows; i++) {
            const ptrdiff_t own = keys_seen(position_in(q, i), at->key);
            amx_values(partial + i * ld_partial, ld_partial, weights + i * GPT2C_KEY_BLOCK, at, 1, own, own, d_pad);
        }
        return;
    }
#endif
    const ptrdiff_t strips = d_pad / GPT2C_LANES, shared = at->shared, together = at->together;
    for (ptrdiff_t row = begin, height; row < rows; row += height) {
        height = rows - row < GPT2C_TILE_ROWS ? rows - row : GPT2C_TILE_ROWS;
        /* The keys that all queries of the tile see, together; then each query's own rest. A weight of zero is not good
         * enough: zero times an infinite value of a later token is NaN. */
        const ptrdiff_t common = keys_seen(position_in(q, row), at->key) / together * together;
        const float *a = weights + row * GPT2C_KEY_BLOCK;
        float *sums = partial + row * ld_partial;
        if (common == 0)
            for (ptrdiff_t i = 0; i < height; i++) memset(sums + i * ld_partial, 0, (size_t)d_pad * sizeof *sums);
        if (shared > 0)
            tile_kind(at->kind, height, sums, NULL, ld_partial, a, GPT2C_KEY_BLOCK, at->v0, at->value_ld,
                      at->value_step, shared / together, strips, &after);
        if (common > shared)
            tile_kind(at->kind, height, sums, shared > 0 ? sums : NULL, ld_partial, a + shared / at->weights_together,
                      GPT2C_KEY_BLOCK, at->v, at->value_ld, at->value_step, (common - shared) / together, strips,
                      &after);
        after.share = 0;
        for (ptrdiff_t i = 0; i < height; i++) {
            const ptrdiff_t seen = keys_seen(position_in(q, row + i), at->key), rest = seen - common,
                            steps = rest / together;
            const float *own = a + i * GPT2C_KEY_BLOCK + common / at->weights_together;
            const float *v = at->v + (common - shared) / together * at->value_ld;
            float *to = sums + i * ld_partial;
            if (steps > 0)
                tile_kind(at->kind, 1, to, to, ld_partial, own, GPT2C_KEY_BLOCK, v, at->value_ld, at->value_step, steps,
                          strips, &after);
            if (rest % together == 0) continue;
            for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES) /* a pair of which the first is seen alone */
                v_store(at->room + c,
                        v_high_halves(v_load_bytes((const uint8_t *)(const void *)(v + steps * at->value_ld + c))));
            tile_kind(at->kind, 1, to, to, ld_partial, own + steps * together / at->weights_together, GPT2C_KEY_BLOCK,
                      at->room, at->value_ld, at->value_step, 1, strips, &after);
        }
    }
}

/* Row i of partial: the weighted values over the keys of one block that query i sees, the greatest score, the sum of
 * the weights; unchanged if query i sees none. scores: [rows][128]. All queries go over the keys and then over the
 * values, so that both come from a first-level cache. */
static void keys_of_block(float *partial, ptrdiff_t ld_partial, queries q, const gpt2c_keys *from, ptrdiff_t rows,
                          ptrdiff_t d_head, float scale, ptrdiff_t key, float *scores) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), begin = key > q.first ? key - q.first : 0;
    const block_keys at =
        block_at(from, key, keys_seen(position_in(q, rows - 1), key), rows, d_head, room_of(scores, d_pad));
    /* The first rows ask for what is read a little later: the block after this; or after the last one, while its keys
     * are read, its values, and then the keys that come next. */
    const int last = position_in(q, rows - 1) < key + GPT2C_KEY_BLOCK;
    const stream after_keys = {last ? (uintptr_t)at.v0 : (uintptr_t)at.k0 + STREAM_DISTANCE, at.share};
    const stream after_values = {last ? (uintptr_t)from->next : (uintptr_t)at.v0 + STREAM_DISTANCE,
                                 last && !from->next ? 0 : at.share};
    const int rounded = from->dtype == GPT2C_CACHE_BFLOAT16;

    scores_of_block(scores, q, &at, begin, rows, after_keys);
    for (ptrdiff_t i = begin; i < rows; i++) /* in two loops: the rows of each do not wait for one another */
        partial[i * ld_partial + d_pad] =
            scale_scores(scores + i * GPT2C_KEY_BLOCK, keys_seen(position_in(q, i), key), scale);
    for (ptrdiff_t i = begin; i < rows; i++) {
        float *row = scores + i * GPT2C_KEY_BLOCK;
        const ptrdiff_t seen = keys_seen(position_in(q, i), key);
        partial[i * ld_partial + d_pad + 1] = exponentials(row, seen, partial[i * ld_partial + d_pad], rounded);
        if (at.weights_together == 2) pack_weights(row, seen);
    }
    values_of_block(partial, ld_partial, scores, q, &at, begin, rows, d_pad, after_values);
}

/* total = total and then block, both rows as keys_of_block leaves them. */
static void merge_rows(float *total, const float *block, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t d_pad) {
    for (ptrdiff_t row = 0; row < rows; row += GPT2C_LANES, total += GPT2C_LANES * ld, block += GPT2C_LANES * ld) {
        const ptrdiff_t n = rows - row < GPT2C_LANES ? rows - row : GPT2C_LANES;
        float state[4][GPT2C_LANES] = {{0}}, keep[GPT2C_LANES], join[GPT2C_LANES]; /* a row in each lane */
        for (ptrdiff_t i = 0; i < n; i++) {
            state[0][i] = total[i * ld + d_pad];
            state[1][i] = block[i * ld + d_pad];
            state[2][i] = total[i * ld + d_pad + 1];
            state[3][i] = block[i * ld + d_pad + 1];
        }
        const vf before = v_load(state[0]), here = v_load(state[1]), greatest = v_max(before, here);
        const vf kept = v_exp(v_sub(before, greatest)), joined = v_exp(v_sub(here, greatest));
        v_store(keep, kept);
        v_store(join, joined);
        v_store(state[0], greatest);
        v_store(state[2], v_fma(v_load(state[2]), kept, v_mul(v_load(state[3]), joined)));
        for (ptrdiff_t i = 0; i < n; i++) {
            float *to = total + i * ld;
            const float *from = block + i * ld;
            for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES)
                v_store(to + c, v_fma(v_load(to + c), v_set1(keep[i]), v_mul(v_load(from + c), v_set1(join[i]))));
            to[d_pad] = state[0][i];
            to[d_pad + 1] = state[2][i];
        }
    }
}

static void finish_row(float *out, const float *total, ptrdiff_t d_head, ptrdiff_t d_pad) {
    const vf divisor = v_set1(total[d_pad + 1]);
    for (ptrdiff_t c = 0; c < d_head; c += GPT2C_LANES)
        v_store_first(out + c, v_div(v_load(total + c), divisor), d_head - c);
}

static void attention(float *out, ptrdiff_t ld_out, const float *q, ptrdiff_t ld_q, const gpt2c_keys *keys,
                      ptrdiff_t rows, ptrdiff_t first, ptrdiff_t advance, ptrdiff_t d_head, float scale,
                      float *scratch) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), ld = GPT2C_PARTIAL(d_pad);
    float *scores = scratch, *total = scores + GPT2C_QUERIES * GPT2C_KEY_BLOCK, *block = total + GPT2C_QUERIES * ld;
    const queries given = queries_of(keys, q, ld_q, rows, first, advance, d_head, room_of(scratch, d_pad));
    for (ptrdiff_t key = 0; key <= position_in(given, rows - 1); key += GPT2C_KEY_BLOCK) {
        keys_of_block(key == 0 ? total : block, ld, given, keys, rows, d_head, scale, key, scores);
        const ptrdiff_t begin = key > first ? key - first : 0; /* the first query that sees this block */
        if (key > 0) merge_rows(total + begin * ld, block + begin * ld, ld, rows - begin, d_pad);
    }
    for (ptrdiff_t i = 0; i < rows; i++) finish_row(out + i * ld_out, total + i * ld, d_head, d_pad);
}

static void attention_block(float *partial, ptrdiff_t ld_partial, const float *q, ptrdiff_t ld_q,
                            const gpt2c_keys *keys, ptrdiff_t rows, ptrdiff_t first, ptrdiff_t advance,
                            ptrdiff_t d_head, float scale, ptrdiff_t block, float *scratch) {
    const queries given = queries_of(keys, q, ld_q, rows, first, advance, d_head, room_of(scratch, GPT2C_PAD(d_head)));
    keys_of_block(partial, ld_partial, given, keys, rows, d_head, scale, block * GPT2C_KEY_BLOCK, scratch);
}

static void attention_merge(float *out, const float *partial, ptrdiff_t blocks, ptrdiff_t d_head, float *scratch) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), ld = GPT2C_PARTIAL(d_pad);
    memcpy(scratch, partial, (size_t)ld * sizeof *scratch);
    for (ptrdiff_t b = 1; b < blocks; b++) merge_rows(scratch, partial + b * ld, ld, 1, d_pad);
    finish_row(out, scratch, d_head, d_pad);
}

/* ---- the same in steps, for observers ---- */

static void attention_scores(float *out, const float *q, const gpt2c_keys *keys, ptrdiff_t position, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float scale, float *scratch) {
    float *room = room_of(scratch, GPT2C_PAD(d_head));
    const queries given = queries_of(keys, q, d_head, 1, position, 1, d_head, room);
    const stream none = {0, 0};
    for (ptrdiff_t j = position + 1; j < n_keys; j++) out[j] = -INFINITY;
    for (ptrdiff_t key = 0; key <= position; key += GPT2C_KEY_BLOCK) {
        const ptrdiff_t seen = keys_seen(position, key);
        const block_keys at = block_at(keys, key, seen, 1, d_head, room);
        scores_of_block(scratch, given, &at, 0, 1, none);
        scale_scores(scratch, seen, scale);
        memcpy(out + key, scratch, (size_t)seen * sizeof *out);
    }
}

static void softmax(float *out, const float *x, ptrdiff_t n) {
    const vf nothing = v_set1(-INFINITY);
    vf greatest = nothing, sum = v_set1(0.0f);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        greatest = v_max(greatest, v_keep_first(v_load_first(x + j, left), left, nothing));
    }
    const float most = v_max_lane(greatest);
    const vf shift = v_set1(most == -INFINITY ? 0.0f : most);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        const vf weight = v_exp(v_sub(v_keep_first(v_load_first(x + j, left), left, nothing), shift));
        sum = v_add(sum, weight);
        v_store_first(out + j, weight, left);
    }
    const float total = v_sum(sum);
    const vf divisor = v_set1(total == 0.0f ? 1.0f : total);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        v_store_first(out + j, v_div(v_load_first(out + j, left), divisor), left);
    }
}

static void attention_values(float *out, const float *pattern, const gpt2c_keys *keys, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float *scratch) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), strips = d_pad / GPT2C_LANES;
    float *room = room_of(scratch, d_pad), *sums = NULL;
    stream none = {0, 0};
    for (ptrdiff_t key = 0; key < n_keys; key += GPT2C_KEY_BLOCK) {
        const ptrdiff_t seen = n_keys - key < GPT2C_KEY_BLOCK ? n_keys - key : GPT2C_KEY_BLOCK;
        block_keys at = block_at(keys, key, seen, 1, d_head, room);
        for (int part = at.shared > 0 ? 0 : 1; part < 2; part++) {
            const ptrdiff_t begin = part ? at.shared : 0, end = part || seen < at.shared ? seen : at.shared;
            const float *v = part ? at.v : at.v0;
            if (end <= begin) break;
            if (at.together == 2) { /* the weights are floats here */
                widen_values(room, v, end - begin, d_pad);
                tile_any(1, scratch, sums, NULL, d_pad, pattern + key + begin, n_keys, room, d_pad, GPT2C_LANES,
                         end - begin, strips, &none);
            } else
                tile_kind(at.kind, 1, scratch, sums, d_pad, pattern + key + begin, n_keys, v, at.value_ld,
                          at.value_step, end - begin, strips, &none);
            sums = scratch;
        }
    }
    memcpy(out, scratch, (size_t)d_head * sizeof *out);
}
