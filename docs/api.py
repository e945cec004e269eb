"""Write a page of the names that the package gives, made of their docstrings: `make api`, or

python docs/api.py --output-dir build/api
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pdoc

import shared_moe_conformer


def write(folder: Path) -> Path:
    """Write the page into a folder, which is made if need be; return its path."""
    for name in shared_moe_conformer.__all__:
        getattr(shared_moe_conformer, name)  # pdoc sees what is loaded
    pdoc.render.configure(
        docformat="google", show_source=False, footer_text=f"shared-moe-conformer {shared_moe_conformer.__version__}"
    )
    pdoc.pdoc(shared_moe_conformer.__name__, rf"!{shared_moe_conformer.__name__}\.", output_directory=folder)
    return folder / f"{shared_moe_conformer.__name__}.html"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a page of the package's names.")
    parser.add_argument("--output-dir", type=Path, default=Path("build/api"), help="the folder to be made [build/api]")
    print(write(parser.parse_args().output_dir))


if __name__ == "__main__":
    main()
