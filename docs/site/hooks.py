"""Hooks of MkDocs: pages keep their places in the repository, so that links work as they do on GitHub.

The site has README.md, the files that it links to, those that these link to, and so on.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
STYLE = "docs/site/site.css"
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def on_files(files, config):
    """The theme's files, and those that can be reached from the README."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    own = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in reached()]
    return Files([*of_theme, *own])


def reached():
    """The paths of these files from the top of the repository."""
    found, waiting = {STYLE}, ["README.md"]
    while waiting:
        path = waiting.pop()
        found.add(path)
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            folder = posixpath.dirname(path)
            links = {posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(text)}
            waiting += [link for link in links - found if (ROOT / link).is_file()]
    return sorted(found)


def on_page_markdown(markdown, **_):
    """Blocks of examples are coloured as what they are: sessions of Python and of a shell."""
    markdown = re.sub(r"^```python\n(?=>>> )", "```pycon\n", markdown, flags=re.MULTILINE)
    return re.sub(r"^```(?:sh)?\n(?=\$ )", "```console\n", markdown, flags=re.MULTILINE)
