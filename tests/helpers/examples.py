"""Examples in the form of ``>>>`` sessions, with what they print."""

import contextlib
import io
import re
import traceback


def python(text, session):
    """A block with what its statements print; one that fails prints the last line of its traceback."""
    answer = []
    for example in re.findall(r"^>>> .*\n(?:\.\.\..*\n)*", text, re.MULTILINE):
        source = re.sub(r"^(>>>|\.\.\.) ?", "", example, flags=re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(source, "<page>", "single"), session)
            except Exception as error:
                print(traceback.format_exception_only(error)[-1], end="")
        answer += [example, ended(printed.getvalue())]
    return "".join(answer)


def ended(text):
    """A text with one line break at its end, if there is anything in it."""
    return text.rstrip("\n") + "\n" if text.strip() else ""
