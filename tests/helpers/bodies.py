"""Bodies of requests, most of which go and some of which do not."""

from hypothesis import strategies as st

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
STRINGS = st.text(st.characters(codec="utf-8"), max_size=12)
IDS = st.lists(st.integers(0, 4095), min_size=1, max_size=8) | st.lists(st.integers(-1, 4096), max_size=8)
ANY_TEXT = STRINGS | IDS


def bodies(fields, **needed):
    """Bodies with a few of the fields, nearly all with values of theirs, and with what is needed.

    With all fields at once, hardly a body would go: one value in ten is junk, and some exclude others.
    """
    mostly = {name: st.one_of([field] * 9 + [JUNK]) for name, field in (fields | needed).items()}
    mostly["other"] = JUNK
    names = st.lists(st.sampled_from([*fields] * 3 + ["other"]), unique=True, max_size=6)
    return names.flatmap(
        lambda some: st.fixed_dictionaries({name: mostly[name] for name in [*needed, *some]})
    )
