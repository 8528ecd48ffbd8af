"""An extension of Griffe, which reads docstrings: their roles, such as ``:meth:`generate```, become links.

What it would take for tuples of types becomes words.
"""

import re

import griffe

ROLE = re.compile(r":(attr|class|func|meth|mod):`([\w.]+)`")
ARRAY = re.compile(r"\bnp\.ndarray, (\w+) \[")  # not a tuple of types
ERRORS = re.compile(r"^ *\w+Error(?:, \w+Error)+$", re.MULTILINE)
TYPE = re.compile(r"^( *)gpt2c\.[\w.]+\.(\w+)$", re.MULTILINE)  # a line of Returns
# Classes whose members are documented as those of a public class.
OWNERS = {"LoadedModel": "GPT2", "Pretrained": "GPT2", "LoadedEncoderDecoder": "EncoderDecoder"}


class Roles(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj, **_):
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value, owner(obj))


def owner(obj):
    """The name of the public class that an object belongs to, or an empty string."""
    while obj is not None and not obj.is_class:
        obj = obj.parent
    return "" if obj is None else OWNERS.get(obj.name, obj.name)


def linked(text, owner):
    """A docstring with links: to what a page documents, otherwise only the name."""

    def link(match):
        role, path = match.groups()
        name = path.removeprefix("gpt2c.")
        within = name == path and name[0].islower()
        target = f"gpt2c.{owner}.{name}" if within else f"gpt2c.{name}"
        shown = path if role == "mod" else name
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)  # before a block of code
    text = ARRAY.sub(r"array of \1 [", TYPE.sub(r"\1\2", text))
    text = ERRORS.sub(lambda match: match[0].replace(",", " or"), text)
    return ROLE.sub(link, text)
