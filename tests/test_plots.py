"""Figures: the numbers drawn are the arrays', and what stands beside them names them."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from helpers.command_line import environment
from helpers.explained import NASTY
from helpers.toys import random_gpt2

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import to_hex

from gpt2c import GPT2
from gpt2c.introspection.hooks import hook_names
from gpt2c.introspection.passes import ActivationCache
from gpt2c.introspection.results import Patching
from gpt2c.scoring.results import Score
from gpt2c.views.drawing import heat_map


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def cell_texts(ax):
    """The texts inside the axes by (row, column)."""
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts}


def random_cache(model: GPT2, ids: list[int], *, causal: bool = True) -> ActivationCache:
    """Patterns as softmax makes them, of random scores."""
    generator, config = np.random.default_rng(len(ids)), model.config
    values = {}
    for name in hook_names(config):
        if name.endswith("hook_pattern"):
            scores = generator.normal(size=(config.n_head, len(ids), len(ids))).astype(np.float32)
            weights = np.exp(scores) * (np.tri(len(ids), dtype=np.float32) if causal else 1)
            values[name] = weights / weights.sum(axis=2, keepdims=True)
    logits = np.zeros((1, config.n_vocab), np.float32)
    return ActivationCache(model, np.array(ids, np.int32), values, logits, causal=causal)


def test_the_pattern_of_a_head_is_the_array_and_grey_where_it_is_masked(bundled):
    ids = bundled.tokenizer.encode("Once upon a time")
    cache = random_cache(bundled, ids)
    figure = cache.plot(2, 1)
    ax = figure.axes[0]
    drawn = ax.images[0].get_array()
    assert np.array_equal(drawn.mask, ~np.tri(4, dtype=bool))
    assert np.array_equal(drawn.data[~drawn.mask], cache["pattern", 2][1][np.tri(4, dtype=bool)])
    assert labels(ax.xaxis) == labels(ax.yaxis) == ["Once", "\u2423upon", "\u2423a", "\u2423time"]
    assert ax.get_title() == "attention pattern, layer 2, head 1"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key token", "query token")
    pattern = cache["pattern", 2][1]
    assert cell_texts(ax) == {(i, j): f"{pattern[i, j]:.2f}" for i in range(4) for j in range(i + 1)}


def test_the_scale_of_a_pattern_ends_at_its_largest_weight_but_for_the_first_token_which_has_no_choice(
    bundled,
):
    cache = random_cache(bundled, [5, 6, 7, 8])
    for figure, heads in ((cache.plot(2, 1), [1]), (cache.plot(2), range(4))):
        maps = [ax for ax in figure.axes if ax.images and ax.get_title()]
        bars = [ax for ax in figure.axes if ax.get_ylabel() == "attention weight"]
        assert len(maps) == len(bars) == len(heads)
        for ax, bar, head in zip(maps, bars, heads, strict=True):
            largest = cache["pattern", 2][head][1:].max()
            assert 0 < largest < 1
            assert ax.images[0].get_clim() == bar.get_ylim() == (0, largest)
    whole = random_cache(bundled, [5, 6, 7], causal=False)
    assert whole.plot(0, 0).axes[0].images[0].get_clim() == (0, whole["pattern", 0][0].max())
    assert random_cache(bundled, [5]).plot(0, 0).axes[0].images[0].get_clim() == (0, 1)


def test_tokens_that_share_a_character_are_labelled_with_it_and_numbered(bundled):
    text = "a 国é"
    three, two = (["\u56fd 1/3", "\u56fd 2/3", "\u56fd 3/3"], ["\u00e9 1/2", "\u00e9 2/2"])
    ids = bundled.tokenizer.encode(text)
    assert [len(bundled.token_bytes(token)) for token in ids] == [1, 1, 1, 1, 1, 1, 1]
    _, cache = bundled.run_with_cache(text)
    expected = ["a", "\u2423", *three, *two]
    for figure in (cache.plot(0, 0), cache.logit_lens().plot(), bundled.score(text).plot()):
        shown = labels(figure.axes[0].xaxis)
        assert [name.replace("\u25a1", "\u56fd") for name in shown] == expected  # a box where no font has it
    # Bytes that are no characters keep their numbers.
    broken = [*ids[2:4], *ids]
    assert labels(random_cache(bundled, broken).plot(0, 0).axes[0].xaxis)[:2] == ["\\xe5", "\\x9b"]


def test_layers_and_heads_count_from_the_end_too(bundled):
    cache = random_cache(bundled, [5, 6, 7])
    figure = cache.plot(-1, -1)
    assert figure.axes[0].get_title() == "attention pattern, layer 5, head 3"
    assert np.array_equal(figure.axes[0].images[0].get_array().data, cache["pattern", 5][3])


def test_without_a_mask_nothing_is_grey(bundled):
    cache = random_cache(bundled, [5, 6, 7], causal=False)
    drawn = cache.plot(0, 0).axes[0].images[0].get_array()
    assert not np.ma.is_masked(drawn) and np.array_equal(drawn, cache["pattern", 0][0])


def test_all_heads_of_a_layer_have_a_map_each():
    model, _ = random_gpt2()
    cache = random_cache(model, list(range(30)))
    figure = cache.plot(1)
    maps = [ax for ax in figure.axes if ax.images and ax.get_title()]
    assert [ax.get_title() for ax in maps] == ["head 0", "head 1"]
    for head, ax in enumerate(maps):
        drawn = ax.images[0].get_array()
        assert np.array_equal(drawn.filled(0), cache["pattern", 1][head])
        assert len(labels(ax.xaxis)) == 15  # every second of 30
    assert figure.get_suptitle() == "attention patterns, layer 1"


def test_a_figure_can_be_drawn_into_axes(bundled):
    figure, (left, right) = pyplot.subplots(1, 2)
    cache = random_cache(bundled, [5, 6, 7])
    assert cache.plot(0, 0, ax=left) is figure and len(left.images) == 1
    score = bundled.score("Once upon a time")
    assert score.plot(ax=right) is figure and len(right.patches) == len(score)
    with pytest.raises(ValueError, match="ax is for one head"):
        cache.plot(0, ax=left)


def test_heads_and_layers_that_are_not_there(bundled):
    cache = random_cache(bundled, [5, 6, 7])
    for head in (4, -5):
        with pytest.raises(ValueError, match="head must be from -4 to 3: the model has 4"):
            cache.plot(0, head)
    for layer in (6, -7):
        with pytest.raises(ValueError, match="layer must be from -6 to 5: the model has 6"):
            cache.plot(layer)
    with pytest.raises(KeyError, match="was not captured"):
        ActivationCache(bundled, cache.token_ids, {}, cache.logits).plot(0)


def test_the_lens_is_the_first_choices_on_their_log_probabilities(bundled):
    text = "Once upon a time"
    lens = bundled.run_with_cache(text)[1].logit_lens(3)
    ax = lens.plot().axes[0]
    assert np.array_equal(ax.images[0].get_array(), lens.top_logprobs[:, :, 0])
    assert labels(ax.yaxis) == list(lens.names) and not ax.yaxis_inverted()  # the last layer on top
    assert labels(ax.xaxis) == ["Once", "\u2423upon", "\u2423a", "\u2423time"]
    texts = cell_texts(ax)
    for layer, position in np.ndindex(7, 4):
        word = bundled.token_bytes(int(lens.top_ids[layer, position, 0])).decode("utf-8", "backslashreplace")
        assert texts[layer, position] == word.replace(" ", "\u2423")
    figure, ax = pyplot.subplots()
    assert lens.plot(ax=ax) is figure


def test_a_long_lens_and_a_long_trace_are_broken_into_bands_of_equal_columns(bundled):
    lens = bundled.run_with_cache(list(range(300, 360)))[1].logit_lens(1)
    result = bundled.generate("Once upon a", max_new_tokens=40, trace=True)
    for figure, n, most in ((lens.plot(), 60, 24), (result.plot(), 40, 16)):
        maps = [ax for ax in figure.axes if ax.images and ax.get_xlim()[0] == -0.5]
        widths = [ax.images[0].get_array().shape[1] for ax in maps]
        assert widths == [most, most, n - 2 * most]
        assert {ax.get_xlim() for ax in maps} == {(-0.5, most - 0.5)}
        if n == 60:
            drawn = np.concatenate([ax.images[0].get_array() for ax in maps], axis=1)
            assert np.array_equal(drawn, lens.top_logprobs[:, :, 0])
            assert len({ax.images[0].get_clim() for ax in maps}) == 1
    figure, ax = pyplot.subplots()
    assert lens.plot(ax=ax) is figure and ax.images[0].get_array().shape == (7, 60)


def figures_of(model: GPT2, text: str):
    """All figures of a text, and of how it goes on."""
    _, cache = model.run_with_cache(text)
    yield from (cache.plot(3, 1), cache.plot(3), cache.logit_lens().plot(), cache.head_scores().plot())
    yield from (cache.attribution().plot(), cache.attribution(7, 8).plot(), model.score(text).plot())
    for options in ({}, {"num_beams": 3}):
        yield model.generate(text, max_new_tokens=3, trace=True, **options).plot()
    ids, places = cache.token_ids, range(min(len(cache.token_ids), 4))
    for over in (("resid_pre", [0, 5], places), ("z", [0, 5], places, range(4))):
        yield model.patch(ids, ids, over, lambda logits: logits[0, 7], logits_to_keep=1).plot()


@pytest.mark.parametrize(
    "text", ["The", "The king and the", "The king had a daughter. " * 8, "国王 and 👩\u200d👧"]
)
def test_nothing_written_in_a_figure_is_clipped(bundled, text):
    for figure in figures_of(bundled, text):
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()  # of all texts and ticks, in inches
        assert 0 <= drawn.x0 < drawn.x1 <= figure.get_figwidth(), figure.axes[0].get_title()
        assert 0 <= drawn.y0 < drawn.y1 <= figure.get_figheight(), figure.axes[0].get_title()


def test_attribution_is_bars_and_a_map(bundled):
    _, cache = bundled.run_with_cache("Once upon a time")
    found = cache.attribution()
    left, right = cache.attribution().plot().axes[:2]
    assert [bar.get_width() for bar in left.patches] == list(found.components.values())
    assert labels(left.yaxis) == list(found.components)
    assert left.get_title() == f"logit of \u2423there: {found.logit:.4g}"
    assert np.array_equal(right.images[0].get_array(), found.heads)
    limit = np.abs(found.heads).max()
    assert right.images[0].get_clim() == (-limit, limit)
    assert (right.get_xlabel(), right.get_ylabel()) == ("head", "layer")
    token, against = (bundled.tokenizer.encode(word)[0] for word in (" king", " queen"))
    title = cache.attribution(token, against).plot().axes[0].get_title()
    assert title.startswith("logit of \u2423king minus \u2423queen: ")


def test_no_cell_is_left_out_where_cells_are_smaller_than_pixels():
    """A single black cell in a white map of 2,000 x 2,000, wherever it is, darkens a pixel of the figure."""
    for at in range(1000, 1012):
        values = np.zeros((2000, 2000))
        values[at, at] = 1
        figure, ax = pyplot.subplots(figsize=(5, 5), dpi=100)
        heat_map(ax, values, [""] * 2000, [""] * 2000, cmap="Greys", annotate=False)
        ax.set_axis_off()
        figure.canvas.draw()
        assert np.asarray(figure.canvas.buffer_rgba())[:, :, :3].min() < 255, at
        pyplot.close(figure)


def test_head_scores_are_a_map_each_and_grey_where_there_is_none(bundled):
    for text, nothing in (("a b a b", []), ("Once upon a", ["duplicate token", "induction"])):
        scores = bundled.run_with_cache(text)[1].head_scores()
        maps = [ax for ax in scores.plot().axes if ax.get_title()]
        names = [ax.get_title() for ax in maps]
        assert names == ["previous token", "duplicate token", "induction", "first token", "entropy"]
        for ax in maps:
            values = getattr(scores, ax.get_title().replace(" ", "_"))
            drawn = ax.images[0].get_array()
            assert np.array_equal(drawn.filled(np.nan), values, equal_nan=True)
            assert drawn.mask.all() == (ax.get_title() in nothing)
            told = [text.get_text() for text in ax.texts]
            assert told == (["no such token"] if ax.get_title() in nothing else [])
            expected = (0, 1) if drawn.mask.all() else (0, values.max())
            assert ax.get_title() == "entropy" or ax.images[0].get_clim() == expected


def test_the_bars_of_a_score_are_surprisals(bundled):
    score = bundled.score("Once upon a time the queen xylophoned")
    ax = score.plot().axes[0]
    assert [bar.get_height() for bar in ax.patches] == score.surprisals.tolist()
    line = ax.lines[0]
    assert np.array_equal(line.get_ydata(), score.entropies.astype(float) / np.log(2))
    assert labels(ax.xaxis)[:4] == ["Once", "\u2423upon", "\u2423a", "\u2423time"]
    assert f"perplexity {score.perplexity:.4g}" in ax.get_title() and ax.get_ylabel() == "surprisal (bits)"


def made_score(text: str, ranks: list[int]) -> Score:
    """A score of a text, each character a token, with these ranks."""
    n = len(text)
    values = np.full(n, -1, np.float32)
    offsets = [(i, i + 1) for i in range(n)]
    return Score(list(range(n)), values, np.array(ranks), values, values, np.arange(n), offsets, n, n, text)


def test_the_colours_of_a_score_are_those_of_its_ranks():
    ax = made_score("abcdefgh", [0, 1, 9, 10, 99, 100, 4000, 0]).plot().axes[0]
    legend = {
        text.get_text(): handle
        for text, handle in zip(ax.get_legend().get_texts(), ax.get_legend().legend_handles, strict=True)
    }
    names = ["first choice", *["among the first 10"] * 2, *["among the first 100"] * 2, *["beyond"] * 2]
    expected = [legend[name].get_facecolor() for name in [*names, "first choice"]]
    assert [bar.get_facecolor() for bar in ax.patches] == expected
    assert len(set(expected)) == 4


def test_a_score_of_token_ids_is_drawn_with_the_ids():
    model, _ = random_gpt2()
    assert labels(model.score([5, 60, 7]).plot().axes[0].xaxis) == ["token 5", "token 60", "token 7"]


def test_the_steps_of_a_trace_are_columns_with_the_chosen_token_framed(bundled):
    result = bundled.generate("Once upon a", max_new_tokens=5, temperature=1.5, top_k=4, seed=3, trace=True)
    ax = result.trace.plot().axes[0]
    drawn, texts = ax.images[0].get_array(), cell_texts(ax)
    frames = {(round(frame.get_y() + 0.5), round(frame.get_x() + 0.5)) for frame in ax.patches}
    chosen = set()
    for column, step in enumerate(result.trace.steps):
        for row, candidate in enumerate(step.branches[0].candidates):
            assert drawn[row, column] == np.exp(candidate.logprob)
            assert texts[row, column].replace("\u2423", " ").rstrip("\u2026") in candidate.text.replace(
                "\n", "\\n"
            )
            if candidate.token_id == result.token_ids[column]:
                chosen.add((row, column))
    assert frames == chosen and len(chosen) == 5
    assert labels(ax.xaxis) == [str(step.position) for step in result.trace.steps]


def test_the_tree_of_a_search_has_what_lived_on_and_the_path_that_is_asked_for(bundled):
    result = bundled.generate("Once upon a time there was", max_new_tokens=6, num_beams=3, trace=True)
    ax = result.trace.plot(result.token_ids).axes[0]
    expected = []
    for step in result.trace.steps:
        for branch in step.branches:
            expected += [f"{c.text}\n{c.score:.2f}" for c in branch.candidates if c.fate]
    assert sorted(text.get_text().replace("\u2423", " ") for text in ax.texts) == sorted(expected)
    lit = [text for text in ax.texts if to_hex(text.get_bbox_patch().get_edgecolor()) == "#c0392b"]
    lit.sort(key=lambda text: text.get_position()[0])
    assert "".join(text.get_text().partition("\n")[0] for text in lit).replace("\u2423", " ") == result.text
    for line, text in zip([line for line in ax.lines if len(line.get_xdata()) == 2], ax.texts, strict=True):
        assert (line.get_xdata()[1], line.get_ydata()[1]) == text.get_position()
    unlit = result.trace.plot().axes[0]
    assert not any(to_hex(t.get_bbox_patch().get_edgecolor()) == "#c0392b" for t in unlit.texts)


def highlighted(ax):
    """The texts in highlighted boxes, from left to right, without their scores."""
    texts = [t for t in ax.texts if to_hex(t.get_bbox_patch().get_edgecolor()) == "#c0392b"]
    texts.sort(key=lambda text: text.get_position()[0])
    return [text.get_text().partition("\n")[0].replace("\u2423", " ") for text in texts]


def test_a_continuation_is_drawn_as_its_trace_with_its_own_path_highlighted(bundled):
    found = bundled.generate(
        "Once upon a time there was", max_new_tokens=6, num_beams=3, num_return_sequences=2, trace=True
    )
    assert found[0].token_ids != found[1].token_ids
    for result in found:
        figure, ax = pyplot.subplots()
        assert result.plot(ax=ax) is figure
        assert highlighted(ax) == [bundled.token_text(token) for token in result.token_ids]
        drawn = result.plot().axes[0]
        whole = result.trace.plot().axes[0]
        assert [t.get_text() for t in drawn.texts] == [t.get_text() for t in whole.texts]
    sampled = bundled.generate("Once upon a", max_new_tokens=4, temperature=1.5, seed=3, trace=True)
    assert cell_texts(sampled.plot().axes[0]) == cell_texts(sampled.trace.plot().axes[0])


def test_a_continuation_without_a_trace_is_an_error(bundled):
    with pytest.raises(ValueError, match="generate it with trace=True"):
        bundled.generate("Once upon a", max_new_tokens=1).plot()


def test_a_trace_without_steps_is_an_error():
    from gpt2c.generation.trace import Trace

    with pytest.raises(ValueError, match="no steps"):
        Trace().plot()


@pytest.mark.parametrize("text", NASTY)
def test_any_text_is_drawn_without_a_warning(bundled, tmp_path, text):
    ids = bundled.tokenizer.encode(text)
    score = bundled.score(text)
    result = bundled.generate(text, max_new_tokens=3, num_beams=2, trace=True)
    _, cache = bundled.run_with_cache(ids)
    figures = [cache.plot(0, 0), score.plot(), result.trace.plot(), cache.logit_lens().plot()]
    figures.append(cache.attribution(token=ids[2]).plot())
    assert all(label.isprintable() for label in labels(figures[1].axes[0].xaxis))
    saved(figures, tmp_path)


def test_a_dollar_is_a_dollar(bundled, tmp_path):
    figure = bundled.score("A $5 bill").plot()
    assert "$" in labels(figure.axes[0].xaxis)
    formula = replace(made_score("x", [0]), text=r"$\frac$", offsets=[(0, 7)])  # an error if it were one
    saved([figure, formula.plot()], tmp_path)


def saved(figures, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also of glyphs that are missing from the fonts
        for number, figure in enumerate(figures):
            figure.savefig(folder / f"{number}.png", dpi=40)


def test_without_matplotlib_the_error_names_the_command():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from gpt2c import GPT2\n"
        "score = GPT2.from_pretrained(threads=1).score('Once upon')\n"
        "try: score.plot()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), timeout=60)
    assert re.fullmatch(
        r'figures need matplotlib \(.*\): pip install "gpt2c\[plot\]"\n', done.stdout.decode()
    ), done


def test_a_notebook_shows_a_figure_once(bundled, monkeypatch):
    """IPython shows the value of a cell, then what pyplot holds: so that which was shown must be released."""
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "inline")
    _, cache = bundled.run_with_cache("The king")
    for plotted in (
        lambda: cache.plot(0),
        lambda: cache.plot(0, 1),
        lambda: bundled.score("The king").plot(),
        lambda: cache.attribution().plot(),
        lambda: cache.head_scores().plot(),
    ):
        pyplot.close("all")
        other = pyplot.figure()
        figure = plotted()
        assert pyplot.get_fignums() == [other.number, figure.number]  # shown at the end, if not before
        with pytest.raises(NotImplementedError):  # that is: shown as any other figure
            figure._ipython_display_()
        assert pyplot.get_fignums() == [other.number]


def test_where_figures_have_windows_they_stay_open(bundled):
    figure = bundled.score("The king").plot()
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert pyplot.get_fignums() == [figure.number]


@pytest.mark.parametrize("over", [("resid_pre", range(6), range(3)), ("z", [0, 3], [0, 1], range(4))])
def test_patches_are_drawn_as_they_are(bundled, over):
    found = bundled.patch("The king said", "A king said", over, lambda logits: logits[0, 7], logits_to_keep=1)
    figure = found.plot()
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    expected = [found.values] if len(over) == 3 else list(found.values.swapaxes(0, 1))
    assert len(images) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(images, expected, strict=True))


@pytest.mark.parametrize(
    ("numbers", "limits"), [([-4.5, -4.1], (-4.5, -4.1)), ([-1.0, 3.0], (-3, 3)), ([0.0, 2.0], (0, 2))]
)
def test_the_scale_of_patches_is_that_of_their_values_and_even_on_both_sides_of_zero(numbers, limits):
    found = Patching("z", [0, 1], None, None, np.array([1]), ["a"], np.array(numbers))
    image = found.plot().axes[0].images[0]
    assert image.get_clim() == limits
    assert (image.get_cmap().name == "RdBu") == (limits[0] == -limits[1])
