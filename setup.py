"""The package of the shared-expert conformer; `make install` makes a working environment for it."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The packages that requirements/<name>.txt lists itself."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def version() -> str:
    """The package's version, read without importing it."""
    text = (ROOT / "shared_moe_conformer" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]  # type: ignore[index]


setup(
    name="shared-moe-conformer",
    version=version(),
    description="Conformer speech recognition whose layers share weights and sparsely-gated experts",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["shared_moe_conformer", "shared_moe_conformer.*"]),
    package_data={"shared_moe_conformer": ["py.typed"], "shared_moe_conformer.web": ["*.html", "*.css", "*.js"]},
    entry_points={"console_scripts": ["smc = shared_moe_conformer.__main__:main"]},
    # torch and lhotse must fit each other, and k2 its torch: an extra chooses a set that does.
    install_requires=requirements("base"),
    extras_require={
        "torch": requirements("torch"),
        "k2": requirements("k2"),  # k2 itself: pip install --no-deps -r requirements/k2-wheel.txt
        "kaldifeat": ["kaldifeat==1.24"],  # compiles against the installed torch: make kaldifeat
        "docs": requirements("docs"),
        "hub": requirements("hub"),
        "onnx": requirements("onnx"),
        "serve": requirements("serve"),
        "transformers": requirements("transformers"),
        "live": ["sounddevice>=0.4,<1"],  # transcribe --live from a microphone
        "dev": requirements("dev"),
    },
)
