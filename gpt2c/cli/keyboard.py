"""Suggestions while typing: words below the line, and a completion after the cursor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import Suggestion
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from ..core.deadline import Deadline
from ..core.labels import harmless
from ..errors import GPT2CError

if TYPE_CHECKING:
    from ..model import GPT2
    from ..session.results import WordSuggestion

__all__ = ["type_texts"]

GHOST = 8  # tokens after the cursor
# The terminal's palette, to fit its colours.
STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "word": "bold", "auto-suggestion": "ansibrightblack"})


class _Found(NamedTuple):
    """Completions of a text, as one value that another thread can show."""

    text: str = ""
    words: Sequence[WordSuggestion] = ()
    ghost: str = ""
    """The text shown after the cursor."""
    problem: str = ""
    """The reason if nothing was found."""


class _Searches:
    """Searches completions in a separate thread; a newer text cancels the search for an older one.

    Parameters
    ----------
    model : GPT2
    k : int
        The number of words wanted.
    special : bool
        Whether special tokens are recognized in texts.
    changed : function
        Called, from the thread, whenever there are new results.
    """

    def __init__(self, model: GPT2, k: int, special: bool, changed: Callable[[], None]) -> None:
        self.found = _Found()
        self._session, self._k, self._changed = model.session(special=special), k, changed
        self._wanted: str | None = None
        self._deadline = Deadline()
        self._ready = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def want(self, text: str) -> None:
        """Search completions of a text."""
        with self._ready:
            self._deadline.cancel()
            self._wanted = text
            self._ready.notify()

    def end(self) -> None:
        """Cancel the search, and end the thread: it must not run when the interpreter exits."""
        with self._ready:
            self._ended = True
            self._deadline.cancel()
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._ended or self._wanted is not None)
                if self._ended:
                    return
                text, self._wanted = self._wanted or "", None
                self._deadline = deadline = Deadline()
            try:
                words, finished = self._words(text, deadline)
                if finished:
                    self.found = _Found(text, words)
                    self._changed()
                self._session.text = text
                found = self._session.complete(1, max_new_tokens=GHOST, deadline=deadline)
                if found.finished and found:
                    self.found = self.found._replace(ghost=found[0].text)
                    self._changed()
            except (GPT2CError, ValueError) as error:
                self.found = _Found(text, problem=str(error))
                self._changed()

    def _words(self, text: str, deadline: Deadline) -> tuple[list[WordSuggestion], bool]:
        """Words that continue a text; after a complete word, the next ones."""
        self._session.text = text
        found = self._session.suggest_words(self._k, deadline=deadline)
        if not found or found[0].text:
            return found, found.finished
        self._session.text = text + " "
        found = self._session.suggest_words(self._k, deadline=deadline)
        return [word._replace(text=" " + word.text) for word in found], found.finished


def type_texts(model: GPT2, k: int, special: bool) -> list[str]:
    """Let the user type texts, one after the other, until the end of the input; yields them."""
    texts: list[str] = []
    prompt: PromptSession[str] = PromptSession(
        style=STYLE,
        bottom_toolbar=lambda: _toolbar(searches, prompt.default_buffer.text),
        key_bindings=_keys(lambda n: _pick(searches, prompt, n)),
        reserve_space_for_menu=0,
    )
    searches = _Searches(model, k, special, lambda: _show(searches, prompt))
    prompt.default_buffer.on_text_changed += lambda buffer: searches.want(buffer.text)
    try:
        while True:
            searches.want("")
            texts.append(prompt.prompt("> "))
    except EOFError:
        return texts
    finally:
        searches.end()


def _show(searches: _Searches, prompt: PromptSession[str]) -> None:
    """Show the results on the screen, from the thread that owns it."""

    def put() -> None:
        buffer = prompt.default_buffer
        found = searches.found
        if buffer.text == found.text and buffer.document.is_cursor_at_the_end:
            buffer.suggestion = Suggestion(found.ghost.split("\n")[0])
        prompt.app.invalidate()

    loop = prompt.app.loop
    if loop is not None:
        loop.call_soon_threadsafe(put)


def _toolbar(searches: _Searches, text: str) -> StyleAndTextTuples:
    """The words found, with the keys that pick them."""
    found = searches.found
    if found.problem:
        return [("", harmless(found.problem))]
    shown: StyleAndTextTuples = []
    if found.text == text:
        for number, word in enumerate(found.words, 1):
            key = "Tab" if number == 1 else f"Alt-{number}"
            shown += [
                ("", f"{key} "),
                ("class:word", harmless(word.word)),
                ("", f" {word.probability:.0%}   "),
            ]
    return shown


def _pick(searches: _Searches, prompt: PromptSession[str], n: int) -> None:
    """Add one of the words to the text that it was found for."""
    buffer, found = prompt.default_buffer, searches.found
    if buffer.text == found.text and n <= len(found.words):
        buffer.cursor_position = len(buffer.text)
        buffer.insert_text(found.words[n - 1].text)


def _keys(pick: Callable[[int], None]) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("tab")
    def _(event: KeyPressEvent) -> None:
        pick(1)

    for number in range(1, 10):

        @keys.add("escape", str(number))
        def _(event: KeyPressEvent, number: int = number) -> None:
            pick(number)

    return keys
