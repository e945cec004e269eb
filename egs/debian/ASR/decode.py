#!/usr/bin/env python3
from pathlib import Path

from config import CONFIGS

from shared_moe_conformer.decode import main

if __name__ == "__main__":
    main(CONFIGS, recipe_dir=Path(__file__).resolve().parent)
