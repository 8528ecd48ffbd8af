"""An extension of Griffe: the roles of docstrings, such as ``:meth:`generate```, become links."""

import re

import griffe

ROLE = re.compile(r":(?:attr|class|func|meth|mod):`([\w.]+)`")
# Classes whose members are documented as those of a public class.
OWNERS = {"LoadedModel": "GPT2", "Pretrained": "GPT2", "LoadedEncoderDecoder": "EncoderDecoder"}


class Roles(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj, **_):
        """``obj`` has its members, but no class around it is complete yet."""
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
        name = match[1].removeprefix("gpt2c.")
        within = not match[1].startswith("gpt2c.") and name[0].islower()
        target = f"gpt2c.{owner}.{name}" if within else f"gpt2c.{name}"
        return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'

    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)  # before a block of code
    return ROLE.sub(link, text)
