"""The forms that there are, and how a model is written in some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shared_moe_conformer.forms.espnet import write_espnet
from shared_moe_conformer.forms.icefall import write_icefall
from shared_moe_conformer.forms.onnx_folder import write_onnx
from shared_moe_conformer.forms.torchscript import write_torchscript


class Form(NamedTuple):
    """One form."""

    write: Callable[..., dict[str, float]]
    """Writes a bundle's folder into a target; the largest difference from the model of each file that computes."""
    suffix: str
    """End of the target's name, after the model's."""


FORMS = {
    "onnx": Form(write_onnx, "-onnx"),
    "torchscript": Form(write_torchscript, "-torchscript"),
    "icefall": Form(write_icefall, "-icefall"),
    "espnet": Form(write_espnet, "-espnet.zip"),
}
FORMS_HELP = (
    "onnx: for sherpa-onnx, float32, float16 and int8; torchscript: for torch alone; icefall: its layout, "
    "exp/pretrained.pt and data/lang_bpe_V; espnet: an archive for espnet_model_zoo; neither's own code runs the model"
)


def target_of(form: str, source: Path) -> Path:
    """Where a form of a model is written, unless one says so: beside the model's folder, the form at its name's end."""
    return source.with_name(source.name + FORMS[form].suffix)


def write_form(form: str, source: Path, target: Path, *, overwrite: bool = False) -> Iterator[str]:
    """Write a bundle's folder in a form; lines that say what was written.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, or a package is missing that this form needs.
    """
    differences = FORMS[form].write(source, target, overwrite=overwrite)
    yield f"{target}: {form} form of {source.name}"
    for path in sorted(target.rglob("*.onnx" if form == "onnx" else "*.pt")):
        difference = f", differs from the model by {differences[path.name]:.1e}" if path.name in differences else ""
        yield f"  {path.name}: {path.stat().st_size / 1e6:.2f} MB{difference}"
