"""Build the site: a tree for each language, and a page that leads to the reader's own.

By MkDocs, as a library: its own command builds one tree at a time. Once Material has ended,
Zensical takes its place; tests build with it already.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from labs.errors import FAILED, Refused
from labs.paths import CHECKOUT
from labs.texts import LANGUAGES, say

CONFIGS = {"en": "mkdocs.yml", "zh": "mkdocs.zh.yml"}
MARK = ".labrun-site"
"""What says that a folder is a site of ours, which the next build may replace."""


def build(target: Path, source: Path = CHECKOUT) -> None:
    """Build the site of the checkout `source` into the folder `target`, which it fills.

    Raises Refused for whatever either tree's build warns of.
    """
    # Material advertises its successor at each start.
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    import jieba
    from mkdocs.commands.build import build as build_tree
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort, MkDocsException

    jieba.setLogLevel(logging.WARNING)
    # Snippets are looked for below the working directory.
    with tempfile.TemporaryDirectory(prefix="labrun-docs-") as scratch, contextlib.chdir(source):
        # It caches its dictionary in a folder that all users share otherwise.
        jieba.dt.tmp_dir = scratch
        for language in LANGUAGES:
            try:
                config = load_config(
                    str(source / CONFIGS[language]), site_dir=str(target / language)
                )
                build_tree(config)
            except (Abort, MkDocsException) as error:
                raise Refused(f"the site, {language}", say("docs.warned"), str(error)) from None
            # Its links hold only at the root of a host; whoever serves the site has one of its own.
            (target / language / "404.html").unlink()
    shutil.copy(source / "docs" / "index.html", target / "index.html")
    (target / MARK).touch()


def publish(target: Path) -> None:
    """Build the site as `target`: whole or not at all; only a former site of ours is replaced.

    Raises Refused for a folder that holds something else.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        if target.is_symlink() or not target.is_dir():
            raise Refused(str(target), say("docs.not_a_folder"), say("docs.elsewhere"))
        if any(target.iterdir()) and not (target / MARK).is_file():
            raise Refused(str(target), say("docs.not_ours"), say("docs.elsewhere"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            made = Path(folder) / "site"
            made.mkdir()
            build(made)
            if target.exists():
                os.rename(target, Path(folder) / "before")
            os.rename(made, target)
    except OSError as error:
        where = str(error.filename or target)
        raise Refused(where, str(error.strerror), say("docs.elsewhere"), status=FAILED) from None
