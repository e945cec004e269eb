"""A released model as an archive that ESPnet's model zoo can list, download and unpack; ESPnet itself cannot run it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
import yaml

from shared_moe_conformer import __version__
from shared_moe_conformer.atomic import atomic_file, check_free
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that equal models give equal archives."""


def write_espnet(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write a zip archive with meta.yaml, as espnet_model_zoo unpacks it.

    Source: espnet2/main_funcs/pack_funcs.py, `pack` and `unpack`.

    Returns:
      Nothing: no graph is made that could differ.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged.
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
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "meta.yaml", yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).encode())
        _add(archive, "config.yaml", yaml.safe_dump({**files, **config}, sort_keys=False, allow_unicode=True).encode())
        for name in FILES:
            _add(archive, name, (source / name).read_bytes())
    return {}


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, ZIP_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)
