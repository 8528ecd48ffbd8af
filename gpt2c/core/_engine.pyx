# cython: language_level=3
"""The compiled engine: weights, caches, and one call that runs the model over the rows of any mix of sequences.

The only interface between Python and the C core. Python owns every buffer; one call releases the GIL once (back end
``native``) and handles signals while it runs. Results of the native back end depend only on the ids and the weights:
not on threads, chunks, the other sequences of a call, reuse of a cache, or the instruction set.
"""

import math

import numpy as np

from gpt2c.core._cache import KVCache
from gpt2c.core._call import EDIT_PATTERN, OBSERVE_PATTERN, UNFUSED
from gpt2c.core._kernels import (
    BACKENDS, CACHE_DTYPES, DEFAULT_CACHE_DTYPES, DTYPES, MOST_THREADS, NUMERICS_VERSION, OWN_BFLOAT16, PLACES,
    TEAMS, aligned_empty, choose_team, default_isa, isas, mask_bits, team,
)
from gpt2c.core._weights import Weights

from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t

from gpt2c.core._call cimport Call
from gpt2c.core._kernels cimport (
    GPT2C_CHUNK, GPT2C_MASK_WORDS, GPT2C_SAMPLE_SCRATCH, GPT2C_TOP_SCRATCH, find_kernels, gpt2c_kernels,
    gpt2c_output, gpt2c_sampling,
)
__all__ = [
    "BACKENDS", "CACHE_DTYPES", "DEFAULT_CACHE_DTYPES", "DTYPES", "EDIT_PATTERN", "KVCache", "MOST_THREADS",
    "NUMERICS_VERSION", "OBSERVE_PATTERN", "OWN_BFLOAT16", "PLACES", "TEAMS", "UNFUSED", "Weights", "aligned_empty",
    "choose_team", "cross_keys", "default_isa", "forward", "hidden", "isas", "log_sum_exp", "mask_bits", "sample",
    "score", "team", "top",
]

cdef int SCORE_BLOCK = 64  # rows of logits in memory at a time while scoring


cdef last_rows(Call call, keep):
    """Indices of the last rows of every sequence: ``keep`` of each (0: all), or one number per sequence."""
    cdef ptrdiff_t n = call.c.batch.n_sequences
    each = keep if isinstance(keep, (list, tuple)) else [keep] * n
    for many in each:
        if isinstance(many, bool) or not isinstance(many, (int, np.integer)) or many < 0:
            raise ValueError(f"keep is {keep!r}; allowed: 0 (all rows) or a positive integer, or one for each "
                             "sequence")
    if len(each) != n:
        raise ValueError(f"keep has {len(each)} numbers, but there are {n} sequences")
    if n == call.rows:
        return np.arange(call.rows, dtype=np.intp)
    starts = call.row_start.tolist()
    sizes = [min(int(many), end - first) or end - first for first, end, many in zip(starts[:-1], starts[1:], each)]
    return np.concatenate([np.arange(end - size, end, dtype=np.intp) for end, size in zip(starts[1:], sizes)])


def forward(weights, sequences, *, keep=0, threads=1, observer=None, start=None, bidirectional=False, deadline=None):
    """Logits of rows of several sequences, in one call.

    Parameters
    ----------
    weights : Weights
    sequences : list of (KVCache, ids), or of (KVCache, ids, types)
        ``ids``: int32, one dimension, at least one. They follow what the cache holds, and the cache grows by them. A
        cache may appear only once. For a BERT pass all of a text at once, with an empty cache, which stays empty;
        ``types``, int32 or None for zeros: the token types.
    keep : int, or list of int
        The number of last rows wanted of each sequence, or one number for each; 0: all.
    threads : int
    observer : object, optional
        Sees what the pass computes, and may change it. ``flags``, uint8 [n_layer + 1]: what is observed in each
        layer, and outside of the layers: 0, or UNFUSED, also with OBSERVE_PATTERN and EDIT_PATTERN;
        ``wants(place, layer)``: whether it wants to see the place, one of PLACES; ``see(place, layer, array)``: called
        there with an array [rows of all sequences, width] that the engine owns, or, for scores and pattern, a list of
        arrays [n_head, rows, keys], one per sequence; for LayerNorm and "attn_out" also with their input, and at
        "attn_in" with a function that projects what heads read instead of the residual stream (Call.project).
    start : (int, float32 array [rows, n_embd]), optional
        The residual stream of all rows before a layer (n_layer: after the last), from which the pass continues. The
        caches keep their length.
    bidirectional : bool
        Every row attends to all rows of its sequence. The caches must be empty, and stay so.
    deadline : gpt2c.core.deadline.Deadline, optional
        Checked every few milliseconds.

    Returns
    -------
    float32 array [rows wanted, n_vocab]

    Raises
    ------
    ContextLengthError, CacheInUseError, ValueError
        Nothing was computed and the caches are unchanged, as they are after KeyboardInterrupt and DeadlineError.
    """
    cdef Call call = Call(weights, sequences, threads, False, observer, start, bidirectional, deadline)
    rows = last_rows(call, keep)
    logits = np.empty((rows.shape[0], weights.config.n_vocab), np.float32)
    call.c.output.n_rows, call.c.output.rows = rows.shape[0], <const ptrdiff_t *>call.own(rows)
    call.c.output.logits = <float *>call.own(logits)
    call.run()
    return logits


def cross_keys(weights, states, *, dtype=None, threads=1):
    """Keys and values of the output of an encoder, computed once for all calls of a model with cross-attention.

    Parameters
    ----------
    weights : Weights
        Those of the model that attends to it.
    states : list of float32 arrays [positions, n_embd]
        One per text, at least one position each.
    dtype : str, optional
        As for KVCache.
    threads : int

    Returns
    -------
    list of KVCache
        For ``KVCache(weights, cross=...)``; any number of caches may share one.
    """
    if not weights.config.add_cross_attention:
        raise ValueError("this model has no cross-attention (add_cross_attention is false in its configuration)")
    n_embd = weights.config.n_embd
    for rows in states:
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != n_embd:
            raise ValueError(f"the output of the encoder has the shape {rows.shape}; needed: (at least 1, {n_embd})")
    caches = [KVCache(weights, len(rows), dtype, of_encoder=True) for rows in states]
    sequences = [(cache, np.zeros(len(rows), np.int32)) for cache, rows in zip(caches, states)]
    start = 0, np.concatenate(states, dtype=np.float32)
    cdef Call call = Call(weights, sequences, threads, False, None, start, False, None, True)
    call.run()
    return caches


def hidden(weights, sequences, wanted, *, threads=1, deadline=None):
    """The output of the last LayerNorm, the input of the model's head, for some rows.

    Parameters
    ----------
    weights, sequences, threads, deadline : as for ``forward``
    wanted : list of intp arrays
        One per sequence: indices of its ids, ascending.

    Returns
    -------
    float32 array [rows wanted, n_embd]
    """
    cdef Call call = Call(weights, sequences, threads, False, None, None, False, deadline)
    if len(wanted) != len(call.caches):
        raise ValueError(f"wanted has {len(wanted)} items; it needs one for each of the {len(call.caches)} sequences")
    rows = np.concatenate([rows_of(rows, begin, end) for rows, begin, end
                           in zip(wanted, call.row_start[:-1], call.row_start[1:])])
    found = np.empty((rows.shape[0], weights.config.n_embd), np.float32)
    call.c.output.n_rows, call.c.output.rows = rows.shape[0], <const ptrdiff_t *>call.own(rows)
    call.c.output.hidden = <float *>call.own(found)
    call.run()
    return found


cdef rows_of(rows, begin, end):
    """Rows of a sequence, which has rows ``begin`` to ``end`` of the call, as rows of the call; checked."""
    rows = np.asarray(rows, np.intp) + begin
    if rows.ndim != 1:
        raise ValueError(f"rows have the shape {rows.shape}; needed: one dimension")
    if rows.size and not (begin <= rows[0] and rows[-1] < end and (rows[1:] >= rows[:-1]).all()):
        raise ValueError(f"rows must ascend from 0 to {end - begin - 1}, the last of the sequence")
    return rows


cdef wanted_rows(Call call, wanted):
    """Rows of the call, ascending, and their targets, from the rows wanted of each sequence."""
    if len(wanted) != len(call.caches):
        raise ValueError(f"wanted has {len(wanted)} items; it needs one (rows, targets) for each of the "
                         f"{len(call.caches)} sequences")
    all_rows, all_targets = [], []
    for (rows, targets), begin, end in zip(wanted, call.row_start[:-1], call.row_start[1:]):
        if np.shape(rows) != targets.shape:
            raise ValueError(f"rows have the shape {np.shape(rows)}, targets {targets.shape}; needed: one target each")
        all_rows.append(rows_of(rows, begin, end))
        all_targets.append(targets)
    targets = np.concatenate(all_targets, dtype=np.int32, casting="safe")
    if targets.size == 0:
        raise ValueError("no rows are wanted, so there is nothing to score")
    n_vocab = call.weights.config.n_vocab
    if targets.max() >= n_vocab or targets.min() < -1:
        raise ValueError(f"target ids from {targets.min()} to {targets.max()} are outside the vocabulary; "
                         f"allowed: 0 to {n_vocab - 1}, or -1 for none")
    return np.concatenate(all_rows), targets


cdef logprobs(logits, maximum, log_total):
    return ((logits.astype(np.float64) - maximum) - log_total).astype(np.float32)


cdef class Reductions:
    """The reductions of rows of logits in a call, and the scores derived from them."""

    cdef object counts  # number of targets of each row
    cdef object target_logit, greater           # [targets]
    cdef object maximum, total, moment, variance  # [rows]
    cdef object top_ids, top_logits             # [rows, top]
    cdef object mask_maximum, mask_total        # [rows, n_masks]

    def __cinit__(self, Call call, rows, targets, ptrdiff_t top, ptrdiff_t n_text, masks):
        cdef gpt2c_output *o = &call.c.output
        first = np.flatnonzero(np.diff(rows, prepend=-1)).astype(np.intp, copy=False)  # of each row
        ends = np.append(first, len(targets))
        cdef ptrdiff_t n = first.shape[0]
        self.counts = np.diff(ends)
        self.target_logit, self.greater = np.empty(len(targets), np.float32), np.empty(len(targets), np.int64)
        self.maximum, self.total = np.empty(n, np.float32), np.empty(n)
        self.moment, self.variance = np.empty(n), np.empty(n)
        self.top_ids, self.top_logits = np.empty((n, top), np.int32), np.empty((n, top), np.float32)
        self.mask_maximum, self.mask_total = np.empty((n, len(masks)), np.float32), np.empty((n, len(masks)))
        logits = aligned_empty((min(n, SCORE_BLOCK, GPT2C_CHUNK), call.weights.config.n_vocab))
        o.n_rows, o.rows = n, <const ptrdiff_t *>call.own(rows[first])
        o.target_start, o.targets = <const ptrdiff_t *>call.own(ends), <const int32_t *>call.own(targets)
        o.logits, o.score_block = <float *>call.own(logits), logits.shape[0]
        o.target_logit, o.greater = <float *>call.own(self.target_logit), <int64_t *>call.own(self.greater)
        o.maximum, o.total = <float *>call.own(self.maximum), <double *>call.own(self.total)
        o.moment, o.variance = <double *>call.own(self.moment), <double *>call.own(self.variance)
        o.top, o.n_text, o.n_masks = top, n_text, len(masks)
        o.top_ids, o.top_logits = <int32_t *>call.own(self.top_ids), <float *>call.own(self.top_logits)
        o.masks = <const uint16_t *>call.own(masks)
        o.mask_maximum, o.mask_total = <float *>call.own(self.mask_maximum), <double *>call.own(self.mask_total)

    cdef scores(self):
        log_total = np.log(self.total)
        entropies = (log_total - self.moment / self.total).astype(np.float32)
        order = np.argsort(-self.top_logits, axis=1, kind="stable")  # ids ascend
        top_ids = np.take_along_axis(self.top_ids, order, 1)
        top_logprobs = logprobs(np.take_along_axis(self.top_logits, order, 1), self.maximum[:, None],
                                log_total[:, None])
        with np.errstate(divide="ignore"):  # a subset of probability 0
            log_mask_total = np.log(self.mask_total)
        masses = (self.mask_maximum.astype(np.float64) - self.maximum[:, None]) + (log_mask_total - log_total[:, None])
        found = (self.maximum, log_total, entropies, self.variance.astype(np.float32), top_ids, top_logprobs,
                 masses.astype(np.float32))
        if len(self.counts) < len(self.greater):
            each = np.repeat(np.arange(len(self.counts)), self.counts)
            found = tuple([array[each] for array in found])
        return logprobs(self.target_logit, found[0], found[1]), self.greater, *found[2:]


def score(weights, sequences, wanted, *, top=0, n_text=None, masks=None, threads=1, observer=None, start=None,
          deadline=None):
    """The probabilities of given next tokens, and statistics over all of them, without a rows × n_vocab array.

    Parameters
    ----------
    weights, sequences, threads, observer, start, deadline : as for ``forward``
    wanted : list of (rows, targets)
        One pair per sequence: indices of its ids, ascending, repeated any number of times, and for each the token that
        follows, or -1 for no particular token. A row is computed once, however often it is repeated.
    top : int
        The number of most probable next tokens wanted.
    n_text : int or None
        The top is that of the first ``n_text`` ids; None: of all.
    masks : uint16 array [n_masks, n_vocab / 16 rounded up], or None
        Subsets of the vocabulary, from ``mask_bits``.

    Returns
    -------
    logprobs : float32 array [n]
        Natural logarithms; NaN without a target. n is the number of pairs wanted of all sequences.
    ranks : int64 array [n]
        The number of tokens with a strictly greater logit; 0 is the most probable.
    entropies : float32 array [n]
        Entropy of the distribution of the token, in nats.
    variances : float32 array [n]
        Variance of the log-probability of a token drawn from it.
    top_ids, top_logprobs : int32 and float32 arrays [n, top]
        The most probable first, equal ones by id. If logits are not finite, ids may be -1.
    masses : float32 array [n, n_masks]
        Logarithm of the probability that the next token is one of the subset.
    """
    n_vocab = weights.config.n_vocab
    n_text = n_vocab if n_text is None else n_text
    if not 0 <= top <= n_text <= n_vocab:
        raise ValueError(f"top is {top} of {n_text} ids; allowed: 0 to n_text, and that up to {n_vocab}")
    if masks is None:
        masks = np.empty((0, GPT2C_MASK_WORDS(n_vocab)), np.uint16)
    if masks.dtype != np.uint16 or masks.ndim != 2:
        raise ValueError(f"masks are {masks.dtype}{list(masks.shape)}; needed: uint16, one row per mask")
    if masks.shape[1] != GPT2C_MASK_WORDS(n_vocab):
        raise ValueError(f"masks have {masks.shape[1]} words each; use those from mask_bits for {n_vocab} ids")
    cdef Call call = Call(weights, sequences, threads, top > 0, observer, start, False, deadline)
    rows, targets = wanted_rows(call, wanted)
    cdef Reductions found = Reductions(call, rows, targets, top, n_text, masks)
    call.run()
    return found.scores()


def log_sum_exp(const float[::1] logits not None):
    """The logarithm of the sum of exp(logits): log-probabilities are logits minus this number.

    Raises
    ------
    ValueError
        If it is not finite: the logits hold NaN or infinities.
    """
    cdef float maximum
    cdef double total, moment, result = math.nan
    find_kernels(None).log_sum(&logits[0], logits.shape[0], 0, &maximum, &total, &moment, NULL)
    if total > 0:
        result = maximum + math.log(total)
    if not math.isfinite(result):
        raise ValueError("the logits hold NaN or infinities: no token can be chosen")
    return result


def top(const float[::1] values not None, Py_ssize_t n):
    """Indices of the ``n`` greatest values, int32: the greatest first, equal ones in ascending order.

    Values of -inf are left out; none are returned if there is NaN or +inf.
    """
    n = min(n, values.shape[0])
    if n == 0 or not np.max(values) < np.inf:
        return np.empty(0, np.int32)
    cdef int32_t[::1] ids = np.empty(n, np.int32)
    cdef float[::1] greatest = np.empty(n, np.float32)
    cdef float[::1] scratch = np.empty(GPT2C_TOP_SCRATCH(values.shape[0]), np.float32)
    find_kernels(None).top(&ids[0], &greatest[0], &values[0], values.shape[0], n, &scratch[0])
    order = np.argsort(-np.asarray(greatest), kind="stable")
    order = order[:np.count_nonzero(np.asarray(ids) >= 0)]
    return np.asarray(ids)[order]


def sample(const float[::1] logits not None, const float[::1] processed=None, *, double temperature, Py_ssize_t top_k,
           double top_p, double min_p, uint64_t seed, uint64_t stream, uint64_t position, isa=None):
    """Draw one token from a row of logits. Options are those of gpt2c.generation.options, checked there.

    ``processed``, if given, replaces the logits for the draw. The order is: temperature, top_k, top_p, min_p;
    then one random number keyed by (seed, stream, position). temperature 0 chooses the greatest.

    Returns
    -------
    (token_id, logprob) : (int, float)
        The log-probability is that of ``logits``.

    Raises
    ------
    ValueError
        If no token can be chosen: all are forbidden (-inf), or there is NaN or +inf among them.
    """
    cdef const float[::1] row = logits if processed is None else processed
    cdef ptrdiff_t n = logits.shape[0], chosen = -1
    cdef gpt2c_sampling s
    cdef float maximum, other
    cdef double total, moment, sound = 0.0, unused
    if row.shape[0] != n:
        raise ValueError(f"processed has {row.shape[0]} logits, but there are {n}")
    s.temperature, s.top_p, s.min_p, s.top_k = temperature, top_p, min_p, top_k
    s.seed, s.stream, s.position = seed, stream, position
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    cdef ptrdiff_t n_work = GPT2C_SAMPLE_SCRATCH(n)
    cdef float[::1] work = np.empty(n_work + n, np.float32)  # few of its pages are touched; the ids are at the end
    with nogil:
        kernels.log_sum(&logits[0], n, 0, &maximum, &total, &moment, NULL)
        if processed is not None:
            kernels.log_sum(&row[0], n, 0, &other, &sound, &unused, NULL)
        if total == total and sound == sound:  # else NaN or +inf is among them
            chosen = kernels.sample(&row[0], n, &s, &work[0], <int32_t *>&work[n_work])
    if chosen < 0:
        raise ValueError("no token can be chosen: every one is forbidden, or the logits hold NaN or infinities")
    return chosen, <double>logits[chosen] - maximum - math.log(total)
