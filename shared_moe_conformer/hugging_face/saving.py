"""Saving with the folder's own code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from shared_moe_conformer.release.hugging_face import CODE


class SavesCode:
    """A class of transformers whose `save_pretrained` writes the code that names the classes.

    Without this, transformers would copy the file of each class, and some of the files of which it is made.
    """

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "") -> None:
        """Do nothing: `auto_map` names the folder's code already."""

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> Any:
        """Save, and add the code; the arguments are those of transformers."""
        saved = super().save_pretrained(save_directory, *args, **options)  # type: ignore[misc]
        shutil.copyfile(Path(__file__).with_name(f"{CODE}.py"), Path(save_directory) / f"{CODE}.py")
        return saved
