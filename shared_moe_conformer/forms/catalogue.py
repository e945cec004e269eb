"""All forms of a model, and the writers of icefall's and ESPnet's layouts, whose own code cannot run the model."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from shared_moe_conformer import __version__
from shared_moe_conformer.atomic import atomic_file, atomic_folder, check_free
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import load_config, require
from shared_moe_conformer.forms.onnx_folder import write_onnx
from shared_moe_conformer.forms.sherpa_folder import (
    DEFAULT,
    StreamingForm,
    trained_in_chunks,
    write_onnx_streaming,
    write_sherpa,
)
from shared_moe_conformer.forms.torchscript import write_torchscript
from shared_moe_conformer.forms.transformers_folder import write_transformers
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    TEST_TEXT,
    TEST_WAV,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Fixed time of every member of an archive, so that equal models give equal archives."""


def write_icefall(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write exp/pretrained.pt (`{"model": state_dict}`), exp/config.json and data/lang_bpe_V, as icefall releases.

    Arguments, result and errors: see `Form`. Source: icefall's export.py and its released models' repositories.
    """
    bundle = Bundle.load(source)
    files: dict[str, Sequence[str]] = {
        "exp": (CONFIG_FILE,),
        f"data/lang_bpe_{bundle.config.model.vocab_size}": TOKENIZER_FILES,
        "test_wavs": (TEST_WAV, TEST_TEXT),
        ".": (CARD_FILE,),
    }
    with atomic_folder(target, marker="exp/pretrained.pt", overwrite=overwrite) as new:
        for folder, names in files.items():
            (new / folder).mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copyfile(source / name, new / folder / name)
        torch.save({"model": bundle.model.state_dict()}, new / "exp" / "pretrained.pt")
    return {}


def write_espnet(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write a zip archive with meta.yaml, as espnet_model_zoo unpacks it.

    Arguments, result and errors: see `Form`. Source: espnet2/main_funcs/pack_funcs.py, `pack` and `unpack`.
    """
    if not overwrite:
        check_free(target, marker="")
    bundle = Bundle.load(source)
    meta = {
        "files": {"asr_model_file": WEIGHTS_FILE, "bpemodel": "bpe.model", "token_list": "tokens.txt"},
        "yaml_files": {"asr_train_config": "config.yaml"},
        "torch": str(torch.__version__),
        "shared_moe_conformer": __version__,
        "corpus": bundle.manifest.corpus,
        "lang": bundle.manifest.language,
        "fs": bundle.config.features.sampling_rate,
    }
    config = yaml.safe_load((source / CONFIG_FILE).read_text(encoding="utf-8"))  # JSON is YAML
    files = {"token_list": "tokens.txt", "bpemodel": "bpe.model"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add_member(archive, "meta.yaml", yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).encode())
        _add_member(
            archive, "config.yaml", yaml.safe_dump({**files, **config}, sort_keys=False, allow_unicode=True).encode()
        )
        for name in FILES:
            _add_member(archive, name, (source / name).read_bytes())
    return {}


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, ZIP_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)


class Form(NamedTuple):
    """One form."""

    write: Callable[..., dict[str, float]]
    """Writes a model in this form.

    Args:
      source: the bundle's folder.
      target: the folder or file to make; it appears whole or not at all.
      overwrite: replace a target of this form.

    Returns:
      The largest difference of each graph's output from the model's on the test wav, by file.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, a package is missing, or a graph differs from the model.
    """
    name: str = "{model}-{form}"
    """Name of the target, made from those of the model and the form."""


STREAMING = "sherpa-onnx-online"
"""The form that takes a `StreamingForm`."""
FORMS = {
    "onnx": Form(write_onnx),
    "sherpa-onnx": Form(write_sherpa, "sherpa-onnx-conformer-{model}"),
    STREAMING: Form(write_onnx_streaming, "sherpa-onnx-streaming-conformer-{model}"),
    "torchscript": Form(write_torchscript),
    "transformers": Form(write_transformers),
    "icefall": Form(write_icefall),
    "espnet": Form(write_espnet, "{model}-{form}.zip"),
}
FORMS_HELP = (
    "onnx: graphs in float32, float16 and int8; sherpa-onnx: the layout of its pre-trained models, for its programs "
    "and apps; sherpa-onnx-online: the same for its streaming recogniser, in chunks; "
    "torchscript: for plain torch; transformers: a folder for Hugging Face's pipelines, by CTC; icefall: its layout, "
    "exp/pretrained.pt and data/lang_bpe_V; espnet: an archive for espnet_model_zoo; neither's own code runs the model"
)


def target_of(form: str, source: Path) -> Path:
    """The default place of a model's form: beside the model's folder."""
    return source.with_name(FORMS[form].name.format(model=source.name, form=form))


def refuse_unused_chunks(streaming: StreamingForm, forms: Collection[str]) -> None:
    """Refuse options of chunks if no form uses them."""
    used = STREAMING in forms or streaming == DEFAULT
    require(used, f"--chunk-size and --left-context-frames are for the form {STREAMING}: add --to {STREAMING}")


def write_form(
    form: str, source: Path, target: Path, *, streaming: StreamingForm = DEFAULT, overwrite: bool = False
) -> Iterator[str]:
    """Write a bundle's folder in a form; yield lines that say what was written. Errors: see `Form`.

    Args:
      streaming: chunks, for the form that has them.
    """
    own = {"streaming": streaming} if form == STREAMING else {}
    differences = FORMS[form].write(source, target, overwrite=overwrite, **own)
    yield f"{target}: {form} form of {source.name}"
    if form == STREAMING:
        yield f"  {trained_in_chunks(load_config(source / CONFIG_FILE).model.encoder)}"
    for path in sorted(path for ending in ("onnx", "pt") for path in target.rglob(f"*.{ending}")):
        difference = f", differs from the model by {differences[path.name]:.1e}" if path.name in differences else ""
        yield f"  {path.name}: {path.stat().st_size / 1e6:.2f} MB{difference}"
