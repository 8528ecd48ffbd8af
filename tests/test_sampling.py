"""The options of generation: what is allowed passes unchanged, what is not is refused in words."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import GPT2
from gpt2c.generation.options import GenerateKwargs, SamplingOptions


def test_defaults_are_greedy_and_change_nothing():
    options = SamplingOptions()
    assert options.greedy
    assert (options.max_new_tokens, options.min_new_tokens, options.num_return_sequences) == (50, 0, 1)
    assert (options.top_k, options.top_p, options.min_p, options.repetition_penalty) == (0, 1.0, 0.0, 1.0)
    assert options.stop == () and dict(options.logit_bias) == {} and options.seed is None


@given(
    temperature=st.floats(0, 1e30),
    top_k=st.integers(0, 10**9),
    top_p=st.floats(1e-30, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1e-6, 1e6),
    seed=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    max_new_tokens=st.integers(1, 10**9),
)
def test_allowed_values_are_kept(**values):
    options = SamplingOptions(**values)
    for name, value in values.items():
        assert getattr(options, name) == value


def test_numpy_numbers_are_numbers():
    options = SamplingOptions(max_new_tokens=np.int64(7), temperature=np.float32(0.5), top_k=np.uint8(3))
    assert (options.max_new_tokens, options.temperature, options.top_k) == (7, 0.5, 3)
    assert type(options.max_new_tokens) is int and type(options.temperature) is float


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_new_tokens", 0, "at least 1, not 0"),
        ("max_new_tokens", -3, "at least 1, not -3"),
        ("min_new_tokens", -1, "at least 0, not -1"),
        ("min_new_tokens", 51, "must not be above max_new_tokens (50)"),
        ("temperature", math.nan, "0 (greedy) or above, and finite, not nan"),
        ("temperature", math.inf, "not inf"),
        ("temperature", -0.1, "not -0.1"),
        ("top_k", -1, "at least 0 (0: no limit), not -1"),
        ("top_p", 0, "above 0 and at most 1 (1: no limit), not 0"),
        ("top_p", 1.01, "not 1.01"),
        ("top_p", math.nan, "not nan"),
        ("min_p", -0.1, "from 0 (no limit) to 1, not -0.1"),
        ("min_p", 1.5, "not 1.5"),
        ("min_p", math.nan, "not nan"),
        ("repetition_penalty", 0, "from 1e-6 to 1e6 (1 is none), not 0"),
        ("repetition_penalty", -1, "not -1"),
        ("repetition_penalty", math.inf, "not inf"),
        ("num_return_sequences", 0, "from 1 to 65536; for more, generate again with another seed, not 0"),
        ("num_return_sequences", 65537, "not 65537"),
        ("num_beams", 1025, "from 1 to 1024, each with its own cache, not 1025"),
        ("seed", -1, "2**64 - 1"),
        ("eos_token_id", -1, "at least 0, not -1"),
        ("eos_token_id", [3, -2], "at least 0, not -2"),
        ("seed", 2**64, "not 18446744073709551616"),
        ("stop", "", "empty string"),
        ("stop", ["a", ""], "empty string"),
        (
            "logit_bias",
            {3: math.nan},
            "logit_bias[3] must be a finite float32, or -inf to forbid the token, not nan",
        ),
        ("logit_bias", {3: math.inf}, "not inf"),
        ("logit_bias", {3: 1e300}, "not 1e+300"),
        ("logit_bias", {-1: 0.5}, "token id in logit_bias must be at least 0, not -1"),
    ],
)
def test_bad_values_are_refused(option, value, allowed):
    with pytest.raises(ValueError) as caught:
        SamplingOptions(**{option: value})
    assert option in str(caught.value) and allowed in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "wrong"),
    [
        ("max_new_tokens", 5.0, "must be an integer, at least 1, not 5.0 (float)"),
        ("max_new_tokens", True, "not True (bool)"),
        ("max_new_tokens", "5", "not '5' (str)"),
        ("max_new_tokens", None, "not None (NoneType)"),
        ("temperature", "hot", "must be a number, 0 (greedy) or above, and finite, not 'hot' (str)"),
        ("temperature", True, "not True (bool)"),
        ("top_p", None, "not None"),
        ("seed", 1.5, "not 1.5 (float)"),
        ("eos_token_id", "</s>", "a token id, a list of them, or None for the model's own, not '</s>' (str)"),
        ("eos_token_id", 2.0, "must be an integer, at least 0, not 2.0 (float)"),
        ("eos_token_id", [True], "not True (bool)"),
        ("stop", 5, "a string or several strings, not 5"),
        ("stop", b"end", "not b'end'"),
        ("stop", ["a", 5], "strings only, not 5"),
        ("logit_bias", [1, 2], "must map token ids to numbers, such as {42: -100}, not list"),
        ("logit_bias", {"a": 1.0}, "token id in logit_bias must be an integer"),
        ("logit_bias", {3: "x"}, "logit_bias[3] must be a number, not 'x'"),
    ],
)
def test_wrong_types_are_refused(option, value, wrong):
    with pytest.raises(TypeError) as caught:
        SamplingOptions(**{option: value})
    assert option in str(caught.value) and wrong in str(caught.value)


@pytest.mark.parametrize("option", ["temperature", "top_p", "repetition_penalty", "seed", "num_beams"])
def test_integers_beyond_all_floats_are_refused_and_cut_short(option):
    with pytest.raises(ValueError, match=rf"^{option} must be .*, not 10{{,80}}\.\.\.$"):
        SamplingOptions(**{option: 10**400})


def test_collections_with_such_integers_are_too():
    with pytest.raises(ValueError, match=r"logit_bias\[3\] must be a finite float32"):
        SamplingOptions(logit_bias={3: 10**400})
    with pytest.raises(
        ValueError, match=r"token id in suppress_tokens must be at least 0, not -10{,80}\.\.\.$"
    ):
        SamplingOptions(suppress_tokens=[-(10**400)])


@pytest.mark.parametrize("option", ["temperature", "seed", "max_new_tokens", "num_beams", "top_p"])
def test_integers_that_python_does_not_write_out_are_refused(option):
    with pytest.raises(ValueError, match=rf"^{option} must be .*, not a value too long to be shown \(int\)$"):
        SamplingOptions(**{option: -(10**5000)})


def test_stop_strings_come_in_any_collection_once_each():
    assert SamplingOptions(stop="ab").stop == ("ab",)
    assert SamplingOptions(stop=["b", "a", "b"]).stop == ("b", "a")
    assert SamplingOptions(stop=(text for text in "xy")).stop == ("x", "y")


def test_a_bias_below_all_float32_forbids():
    assert SamplingOptions(logit_bias={1: -1e300, 2: -100}).logit_bias == {1: -math.inf, 2: -100.0}
    assert SamplingOptions(logit_bias={1: -(10**400)}).logit_bias == {1: -math.inf}


def test_type_checkers_and_readers_know_every_option():
    names = set(SamplingOptions.__dataclass_fields__)
    assert set(GenerateKwargs.__annotations__) == names - {"num_return_sequences"}
    for name in names:
        assert re.search(rf"^(\w+, )?{name}(, \w+)? : ", inspect.getdoc(GPT2.generate), re.MULTILINE), name
