/* One row of logits: its log-sum-exp, and one token drawn from it. */

static ptrdiff_t log_sum(const float *logits, ptrdiff_t n, float threshold, float *maximum, double *total,
                         double *moment) {
    const vf nothing = v_set1(-INFINITY), limit = v_set1(threshold);
    vf greatest = nothing;
    ptrdiff_t greater = 0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const ptrdiff_t left = n - i;
        const vf logit =
            left >= GPT2C_LANES ? v_load(logits + i) : v_keep_first(v_load_first(logits + i, left), left, nothing);
        greatest = v_max(greatest, logit);
        greater += __builtin_popcount(v_mask_lt(limit, logit));
    }
    *maximum = v_max_lane(greatest);
    const vf shift = v_set1(*maximum), least = v_set1(-200.0f); /* exp(-200) = 0, and 0 * -200 is a number */
    double sum = 0.0, product = 0.0;
    for (ptrdiff_t block = 0; block < n; block += 256) {
        vf sums = v_set1(0.0f), products = v_set1(0.0f);
        const ptrdiff_t end = n - block < 256 ? n : block + 256;
        for (ptrdiff_t i = block; i < end; i += GPT2C_LANES) {
            const ptrdiff_t left = end - i;
            vf logit =
                left >= GPT2C_LANES ? v_load(logits + i) : v_keep_first(v_load_first(logits + i, left), left, nothing);
            logit = v_max(least, v_sub(logit, shift));
            const vf weight = v_exp(logit);
            sums = v_add(sums, weight);
            products = v_fma(weight, logit, products);
        }
        sum += (double)v_sum(sums);
        product += (double)v_sum(products);
    }
    *total = sum;
    *moment = product;
    return greater;
}

/* Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the first word for the key
 * (seed, stream) and the counter (position, 0, 0, 0), as a number in [0, 1) of 53 bits. */
__extension__ typedef unsigned __int128 wide_product;

static double philox_uniform(uint64_t seed, uint64_t stream, uint64_t position) {
    uint64_t c[4] = {position, 0, 0, 0}, k0 = seed, k1 = stream;
    for (int round = 0; round < 10; round++) {
        const wide_product p0 = (wide_product)0xD2E7470EE14C6C93U * c[0];
        const wide_product p1 = (wide_product)0xCA5A826395121157U * c[2];
        const uint64_t next0 = (uint64_t)(p1 >> 64) ^ c[1] ^ k0, next2 = (uint64_t)(p0 >> 64) ^ c[3] ^ k1;
        c[0] = next0;
        c[1] = (uint64_t)p1;
        c[2] = next2;
        c[3] = (uint64_t)p0;
        k0 += 0x9E3779B97F4A7C15U; /* golden ratio */
        k1 += 0xBB67AE8584CAA73BU; /* sqrt(3) - 1 */
    }
    return (double)(c[0] >> 11) * 0x1p-53;
}

/* Unsigned integers in the order of the floats. */
VEC_INLINE uint32_t order_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

/* Keeps, in place and in order of id, the smallest set of the greatest values whose measure reaches `wanted`: their
 * number, or with by_mass the sum of the values. Of equal values at the edge the lowest ids stay. Returns how many. The
 * threshold is found digit by digit (11, 11 and 10 bits) from the greatest down, among those that share the digits
 * found so far. */
static ptrdiff_t keep_greatest(float *value, int32_t *id, ptrdiff_t n, double wanted, int by_mass) {
    static const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};
    double measure[2048];
    uint32_t found = 0;
    double above = 0.0; /* the measure of all that is greater than the threshold's digits so far */
    for (int digit = 0; digit < 3; digit++) {
        const uint32_t buckets = 1U << widths[digit], mask = buckets - 1U;
        const int shared = shifts[digit] + widths[digit];
        memset(measure, 0, buckets * sizeof measure[0]);
        for (ptrdiff_t i = 0; i < n; i++) {
            const uint32_t key = order_of(value[i]);
            if (digit == 0 || key >> shared == found)
                measure[key >> shifts[digit] & mask] += by_mass ? (double)value[i] : 1.0;
        }
        uint32_t bucket = buckets - 1U, lowest = bucket; /* lowest: the last bucket with anything in it */
        for (;; bucket--) {
            if (measure[bucket] > 0.0) {
                lowest = bucket;
                if (above + measure[bucket] >= wanted) break;
                above += measure[bucket];
            }
            if (bucket == 0) { /* rounding left the sum short of wanted: everything stays */
                above -= measure[lowest];
                bucket = lowest;
                break;
            }
        }
        found = found << widths[digit] | bucket;
    }
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t key = order_of(value[i]);
        if (key < found || (key == found && above >= wanted)) continue;
        if (key == found) above += by_mass ? (double)value[i] : 1.0;
        value[kept] = value[i];
        id[kept++] = id[i];
    }
    return kept;
}

static ptrdiff_t sample(const float *logits, ptrdiff_t n, const gpt2c_sampling *s, float *work, int32_t *ids) {
    memcpy(work, logits, (size_t)n * sizeof work[0]);
    if (s->repetition_penalty != 1.0f)
        for (ptrdiff_t i = 0; i < s->n_seen; i++) { /* from the raw logit, so that repeats of an id count once */
            const float logit = logits[s->seen[i]];
            work[s->seen[i]] = logit > 0.0f ? logit / s->repetition_penalty : logit * s->repetition_penalty;
        }
    for (ptrdiff_t i = 0; i < s->n_bias; i++) work[s->bias_ids[i]] += s->bias_values[i];
    for (ptrdiff_t i = 0; i < s->n_forbidden; i++) work[s->forbidden[i]] = -INFINITY;

    vf greatest = v_set1(-INFINITY);
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES)
        greatest = v_max(greatest, n - i >= GPT2C_LANES ? v_load(work + i)
                                                        : v_keep_first(v_load_first(work + i, n - i), n - i, greatest));
    const float maximum = v_max_lane(greatest);
    if (!(maximum > -INFINITY && maximum < INFINITY)) return -1;
    if (s->temperature == 0.0f) {
        for (ptrdiff_t i = 0; i < n; i++)
            if (work[i] == maximum) return i;
        return -1;
    }

    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        if (work[i] > -INFINITY) {
            work[kept] = work[i];
            ids[kept++] = (int32_t)i;
        }
    if (s->top_k > 0 && s->top_k < kept) kept = keep_greatest(work, ids, kept, (double)s->top_k, 0);

    const vf temperature = v_set1(s->temperature), shift = v_set1(maximum);
    double total = 0.0;
    for (ptrdiff_t i = 0; i < kept; i += GPT2C_LANES) {
        const ptrdiff_t left = kept - i;
        const vf weight =
            v_keep_first(v_exp(v_div(v_sub(v_load_first(work + i, left), shift), temperature)), left, v_set1(0.0f));
        v_store_first(work + i, weight, left);
        total += (double)v_sum(weight);
    }
    if (s->top_p < 1.0f) kept = keep_greatest(work, ids, kept, (double)s->top_p * total, 1);

    total = 0.0;
    for (ptrdiff_t i = 0; i < kept; i++) /* the greatest weight is 1, so min_p is a plain threshold */
        if (work[i] >= s->min_p) total += (double)work[i];
    const double target = philox_uniform(s->seed, s->stream, s->position) * total;
    double passed = 0.0;
    ptrdiff_t last = -1;
    for (ptrdiff_t i = 0; i < kept; i++)
        if (work[i] >= s->min_p && work[i] > 0.0f) {
            passed += (double)work[i];
            last = ids[i];
            if (passed > target) break;
        }
    return last;
}
