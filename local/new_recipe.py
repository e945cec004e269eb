#!/usr/bin/env python3
"""Make a recipe from audio files and their texts: egs/NAME/ASR with its splits, units and configs, in one command.

    local/new_recipe.py calls --tsv calls.tsv --normalise lower --language en
    local/new_recipe.py calls --kaldi data/calls --normalise none
    local/new_recipe.py calls --kaldi train=data/train dev=data/dev test=data/test --normalise none

    local/new_recipe.py voices --tsv train=train.tsv dev=dev.tsv test=test.tsv --normalise lower --language tr

Lines of a TSV file are path<TAB>text[<TAB>speaker][<TAB>split]; a first line may name these columns in another order,
by the names that Common Voice, NeMo and others use, and start, end or duration, and channel. A table may also be CSV
with names, or JSON: an object a line (NeMo), or one list or object of them.
Lines that cannot be used are named, and nothing is made.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.cli import Parser, run_main
from shared_moe_conformer.config import FeatureConfig, require
from shared_moe_conformer.data.checks import FASTEST, MAX_DURATION, MIN_DURATION, SLOWEST, reason_to_drop
from shared_moe_conformer.data.marks import half_bracket, listed, marks_in, without_marks
from shared_moe_conformer.data.normalisation import has_dotless_i, normalise
from shared_moe_conformer.data.recordings import measure
from shared_moe_conformer.data.tables import read_kaldi, read_tsv
from shared_moe_conformer.data.tokenizer import NUM_SPECIAL, choose_vocab_size, mostly_spaceless
from shared_moe_conformer.data.utterances import (
    SPLITS,
    Utterance,
    assign_splits,
    refuse,
    shared_texts,
    with_ids,
    write_table,
)
from shared_moe_conformer.pretrained import Beginning, choose_beginning
from shared_moe_conformer.release.manifest import CARD_FILE, require_name
from shared_moe_conformer.sizes import (
    BEGINNING,
    BEGUN,
    CODED_SHARE,
    CONDITIONS,
    FEW_HOURS,
    GAINS,
    corpus_size,
    kind_of,
    recipe_configs,
    sizes_of,
)
from shared_moe_conformer.text import counted

ROOT = Path(__file__).resolve().parent.parent
TABLE, DROPPED = "utterances.tsv", "dropped.tsv"
THOROUGH_HOURS = 20.0
"""Above, reading all recordings and features once more for checks takes too long to be the default."""
EVIDENCE = "docs/own-corpus.md"
WHY = "trainings begun with speechocean762-merged left fewer errors in each language that was tried"
"""What that page tells of."""
RATES = (8000, 16000)
"""Lowest and highest sampling rate of features, in Hz."""


def main() -> None:
    args = parser().parse_args()
    require_name(args.name)
    folder = args.recipe_dir or ROOT / "egs" / args.name / "ASR"
    require(not folder.exists(), f"{folder} exists: give another name or --recipe-dir, or delete it")
    told = normalised(read(args), args)
    audio_dir = (args.audio_dir or find_audio_dir(args, told)).resolve()
    utterances, lowest_rate = measure(told, audio_dir)
    limits = {"min_duration": args.min_duration, "max_duration": args.max_duration}
    dropped = {utterance: reason for utterance in utterances if (reason := reason_to_drop(utterance, **limits))}
    kept = with_ids(utterance for utterance in utterances if utterance not in dropped)
    reason = f"{next(iter(dropped.values()), '')}; correct the table, or give --min-duration or --max-duration"
    require(len(kept) > 0, f"all {len(dropped)} utterances are left out: {reason}")
    rate = feature_rate(lowest_rate)
    split = assign_splits(kept, by=args.split_by)
    recipe = describe(split, audio_dir=audio_dir, sampling_rate=rate, args=args)
    write_recipe(folder, split, dropped, recipe)
    print(f"made {folder}: {len(kept)} utterances; {len(dropped)} left out, named in {DROPPED}")
    whose = "the model that it begins with has them so, " if recipe.sampling_rate > rate else ""
    print(f"features at {recipe.sampling_rate} Hz: {whose}the lowest rate of the recordings is {lowest_rate} Hz")
    print(told_beginning(recipe), flush=True)
    done = subprocess.run([folder / "prepare.sh", "--stop-stage", "1"])
    require(done.returncode == 0, f"{folder} is made, but its manifests are not: run its prepare.sh")
    print(f"continue with: cd {folder} && ./prepare.sh && ./train.py")


def parser() -> argparse.ArgumentParser:
    result = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("name", help="the corpus's name: letters, digits and - _ .")
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--tsv", "--table", nargs="+",
                        help="a table (TSV, CSV, JSON lines), or SPLIT=TABLE for each split")  # fmt: skip
    source.add_argument("--kaldi", nargs="+", help="a Kaldi data folder, or SPLIT=FOLDER for each split")
    result.add_argument("--normalise", choices=("upper", "lower", "none"), required=True,
                        help="texts in upper or lower case without punctuation, or as they are")  # fmt: skip
    result.add_argument("--remove-marks", action="store_true",
                        help="leave marks such as <unk>, (laughs), *cough* out of texts, not refuse them")  # fmt: skip
    result.add_argument("--keep-marks", action="store_true",
                        help="what is in ( ), between * or /, or behind # is said: take it as words")  # fmt: skip
    result.add_argument("--audio-dir", type=Path, help="folder that paths begin in [the TSV's; with --kaldi .]")
    result.add_argument("--split-by", choices=("text", "speaker"), default="text",
                        help="texts or speakers stay in one split, if the lines name none [text]")  # fmt: skip
    result.add_argument("--recipe-dir", type=Path, help="the recipe's folder [egs/NAME/ASR]")
    result.add_argument("--language", default="und", help="BCP-47 code, e.g. en [und]")
    result.add_argument("--licence", default="unknown", help="SPDX identifier of the corpus's licence [unknown]")
    result.add_argument("--begin-with", default="", metavar="NAME|none",
                        help="model of the zoo with whose weights a training begins, or none for random weights "
                        f"[{BEGINNING} for less than {FEW_HOURS:g} hours, if it fits]")  # fmt: skip
    result.add_argument("--min-duration", type=float, default=0.4, help="shorter utterances are left out, in s [0.4]")
    result.add_argument("--max-duration", type=float, default=25.0, help="longer ones are left out, in s [25]")
    return result


def read(args: argparse.Namespace) -> list[Utterance]:
    """The utterances that the user names."""
    utterances = []
    for split, path in sources(args):
        if args.kaldi:
            utterances += read_kaldi(path, split=split)
        else:
            utterances += [u._replace(split=split or u.split) for u in read_tsv(path)]
    return utterances


def sources(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Split, which may be empty, and path of each table or Kaldi folder."""
    result = []
    for argument in args.tsv or args.kaldi:
        split, equals, path = argument.partition("=")
        if equals and Path(argument).exists():
            split, path = "", argument
        flag = "--tsv" if args.tsv else "--kaldi"
        require(
            not equals or not split or split in SPLITS, f"{flag} {argument}: write SPLIT=PATH with {', '.join(SPLITS)}"
        )
        result.append((split, Path(path)) if equals else ("", Path(argument)))
    return result


def find_audio_dir(args: argparse.Namespace, utterances: list[Utterance]) -> Path:
    """The folder that paths begin in: a table's own, or as in Common Voice the folder `clips` in it."""
    folder = sources(args)[0][1].parent if args.tsv else Path()
    first = utterances[0].path
    return folder / "clips" if not (folder / first).exists() and (folder / "clips" / first).exists() else folder


def normalised(utterances: list[Utterance], args: argparse.Namespace) -> list[Utterance]:
    """The utterances with final texts."""
    case, spoken = args.normalise, without_any_marks(utterances, args)
    texts = [normalise(text, case, language=args.language) for text in spoken]
    result = [utterance._replace(text=text) for utterance, text in zip(utterances, texts)]
    refuse([
        f"{before.origin}: --normalise {case} leaves nothing of {before.text!r}: take the line out"
        for before, after in zip(utterances, result)
        if not after.text
    ])  # fmt: skip
    if case != "none" and args.language == "und" and any(has_dotless_i(text) for text in spoken):
        print(
            "texts have \u0130 or \u0131: if they are Turkish or Azeri, give --language tr or az, whose i and I differ"
        )
    return result


def without_any_marks(utterances: list[Utterance], args: argparse.Namespace) -> list[str]:
    """The texts, which have no marks, or from which the user lets us take them.

    Raises:
      ValueError: marks that are no words, which a model would learn to write, or a half of one; named.
    """
    are_words, texts = args.keep_marks, [utterance.text for utterance in utterances]
    found = [(utterance.origin, marks_in(utterance.text, are_words=are_words)) for utterance in utterances]
    lines = [origin for origin, marks in found if marks]
    said = listed(mark for _, marks in found for mark in marks)
    where = f"first in {', '.join(lines[:3])}"
    either = "" if are_words else "; if what is in ( ), between * or /, or behind # is said, give --keep-marks"
    require(
        args.remove_marks or not lines,
        f"{said}: marks, not words, {where}: write what is said, or give --remove-marks{either}",
    )
    halves = [(utterance.origin, half_bracket(utterance.text, are_words=are_words)) for utterance in utterances]
    refuse(
        [f"{origin}: {half} is half of a mark: close the bracket, or take it out" for origin, half in halves if half]
    )
    if not lines:
        return texts
    print(f"left out of {counted(len(lines), 'text')}: {said}")
    return [without_marks(text, are_words=are_words) for text in texts]


def write_recipe(folder: Path, utterances: list[Utterance], dropped: dict[Utterance, str], recipe: NewRecipe) -> None:
    """Write the recipe's folder, whole or not at all."""
    with atomic_folder(folder, marker=TABLE) as new:
        write_table(utterances, new / TABLE)
        lines = (f"{utterance.path}\t{reason}\t{utterance.text}\n" for utterance, reason in dropped.items())
        (new / DROPPED).write_text("".join(lines), encoding="utf-8")
        fill_templates(ROOT / "local/recipe_template", new, recipe, target=folder, local=ROOT / "local")
        for program in ("train.py", "train_lm.py", "decode.py", "export.py"):
            shutil.copy(ROOT / "egs/asterisk/ASR" / program, new)


def describe(
    utterances: list[Utterance], *, audio_dir: Path, sampling_rate: int, args: argparse.Namespace
) -> NewRecipe:
    """The values that the recipe's files need."""
    texts = [utterance.text for utterance in utterances if utterance.split == "train"]
    characters = {character for utterance in utterances for character in utterance.text} - {" "}
    vocab_size = choose_vocab_size(texts, covered="".join(sorted(characters)))
    shared = shared_texts(utterances)
    if shared:
        print(f"{len(shared)} texts are in two splits, as the lines say: error rates will be lower than on new texts")
    spaces = any(" " in text for text in texts)
    hours = sum(utterance.duration for utterance in utterances if utterance.split == "train") / 3600
    features = FeatureConfig(sampling_rate=sampling_rate)
    beginning, reason = choose_beginning(args.begin_with, hours=hours, features=features, zoo_dir=ROOT / "zoo")
    if mostly_spaceless(texts):
        print("texts are in a script without spaces: each character is a unit, and error rates count characters (CER)")
    return NewRecipe(
        args.name,
        args.language,
        args.licence,
        audio_dir,
        num_utterances=len(utterances),
        hours=hours,
        vocab_size=vocab_size or NUM_SPECIAL + len(characters) + spaces,
        characters_are_units=vocab_size is None,
        texts_are_shared=bool(shared),
        min_duration=args.min_duration,
        max_duration=args.max_duration,
        sampling_rate=beginning.config.features.sampling_rate if beginning else sampling_rate,
        beginning=beginning,
        why_random=reason,
    )


class NewRecipe(NamedTuple):
    """The values that the templates need."""

    name: str
    language: str
    licence: str
    audio_dir: Path
    num_utterances: int
    hours: float
    """Speech for training."""
    vocab_size: int
    """Units, special ones included."""
    characters_are_units: bool
    texts_are_shared: bool
    """Whether the splits, which the user gave, have texts in common."""
    min_duration: float
    """Seconds of the shortest utterances that are kept."""
    max_duration: float
    """Seconds of the longest."""
    sampling_rate: int = 16000
    """Of the features, in Hz."""
    beginning: Beginning | None = None
    """The model that the recommended config begins with."""
    why_random: str = "no model was chosen"
    """Otherwise the reason why it begins with random weights."""


def told_beginning(recipe: NewRecipe) -> str:
    """A line about the config that will be trained, and the weights that it begins with."""
    name = recommended(recipe)
    if recipe.beginning is None:
        return f"{name} begins with random weights: {recipe.why_random}"
    return (
        f"{name} begins with zoo/{recipe.beginning.manifest.name}: {WHY} ({EVIDENCE}); for random "
        "weights: --begin-with none, or delete own=... in config.py"
    )


def recommended(recipe: NewRecipe) -> str:
    """The config that is trained where none is named: one that begins with a trained model, or what the hours say."""
    begun = recipe.beginning
    return kind_of(begun.config) if begun else corpus_size(_shown_hours(recipe)).recommended


def feature_rate(lowest_sampling_rate: int) -> int:
    """The sampling rate of features for a corpus: its recordings' lowest, in hundreds, but 8000 to 16000 Hz.

    With random weights, mel bins above a recording's own band would hold nothing in training, and the hiss of any
    microphone afterwards.
    """
    lowest, highest = RATES
    return min(max(lowest_sampling_rate // 100 * 100, lowest), highest)


def fill_templates(templates: Path, new: Path, recipe: NewRecipe, *, target: Path, local: Path) -> None:
    """Write the files of a recipe.

    Args:
      templates: folder of NAME.in files, in which @word stands for a value.
      new: folder to write into.
      recipe: what it is about.
      target: where the folder will be in the end.
      local: the folder of the programs that all recipes share.
    """
    values = _values(recipe, target=target, local=local)
    for template in sorted(templates.glob("*.in")):
        path = new / template.stem
        path.write_text(_Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)


class _Template(string.Template):
    delimiter = "@"


def _values(recipe: NewRecipe, *, target: Path, local: Path) -> Mapping[str, Any]:
    lang_dir = "data/lang_char" if recipe.characters_are_units else f"data/lang_bpe_{recipe.vocab_size}"
    return {
        **_shell_values(recipe, target=target, local=local),
        **_beginning(recipe, target=target, clone=local.parent),
        "name": recipe.name,
        "corpus": json.dumps(recipe.name),
        "language": json.dumps(recipe.language),
        "licence": json.dumps(recipe.licence),
        "language_name": recipe.language,
        "licence_name": recipe.licence,
        "lang_dir": json.dumps(lang_dir),
        "num_utterances": recipe.num_utterances,
        "hours": _shown_hours(recipe),
        "size": f"{recipe.hours:.1f} hours" if recipe.hours >= 1 else f"{60 * recipe.hours:.1f} minutes",
        "sampling_rate": recipe.sampling_rate,
        "band": recipe.sampling_rate // 2,
        "vocab_size": recipe.vocab_size,
        "zoo": _seen_from(target, local.parent / "zoo", clone=local.parent),
    }


def _beginning(recipe: NewRecipe, *, target: Path, clone: Path) -> dict[str, str]:
    """Parts of config.py and of the page that depend on the weights of the first update."""
    conditions = dict(CONDITIONS) if recipe.hours < FEW_HOURS else {}
    name = recommended(recipe)
    if recipe.beginning is None:
        said = f"`{name}` begins with random weights: {recipe.why_random}."
        return {"conditions": _lines(conditions), "own": "", "beginning": said, "recommended": name}
    (manifest, trained), hours = recipe.beginning, _shown_hours(recipe)
    if conditions and not trained.model.encoder.loudness_norm:
        conditions |= GAINS
    its: dict[str, Any] = {"corpus": recipe.name, "language": recipe.language, "licence": recipe.licence}
    usual = recipe_configs(hours, **its, vocab_size=recipe.vocab_size, changes=conditions)
    folder, page = (_seen_from(target, clone / path, clone=clone) for path in (f"zoo/{manifest.name}", EVIDENCE))
    begun = {"init_from": folder, **BEGUN}
    said = (
        f"`{name}` and `streaming` begin with the weights of [{manifest.name}]({folder}/{CARD_FILE}) "
        f"({manifest.corpus}, licence {manifest.licence}), since [{WHY}]({page}#first-weights). For random "
        "weights, delete `own=...` in `config.py`."
    )
    return {
        "conditions": _lines(conditions | sizes_of(trained, usual)),
        "own": f'    own=dict.fromkeys(("{name}", "streaming"), {{\n{_lines(begun)}    }}),\n',
        "beginning": said,
        "recommended": name,
    }


def _lines(options: Mapping[str, Any], *, indent: int = 8) -> str:
    """Options as lines of a dictionary in config.py."""
    shown = {name: json.dumps(value) if isinstance(value, str) else repr(value) for name, value in options.items()}
    return "".join(f'{" " * indent}"{name}": {value},\n' for name, value in shown.items())


def _shown_hours(recipe: NewRecipe) -> float:
    """The hours that config.py gives."""
    return max(round(recipe.hours, 2), 0.01)


def _shell_values(recipe: NewRecipe, *, target: Path, local: Path) -> dict[str, str]:
    """Parts of prepare.sh."""
    size = f"  --vocab-size V     SentencePiece units, in data/lang_bpe_V ({recipe.vocab_size})"
    defaults = [] if recipe.characters_are_units else [f"vocab_size={recipe.vocab_size}"]
    defaults += [f"coded_share={CODED_SHARE}"] if recipe.hours < FEW_HOURS else []
    defaults += ["thorough=false"] if recipe.hours > THOROUGH_HOURS else []
    defaults += [f"sampling_rate={recipe.sampling_rate}"] if recipe.sampling_rate != RATES[1] else []
    settings = ["unit=char"] if recipe.characters_are_units else []
    allowed = _allowed(recipe)
    settings += [f"allowed=({' '.join(allowed)})"] if allowed else []
    return {
        "vocab_help": "" if recipe.characters_are_units else f"# {size}\n#\n",
        "defaults": "".join(f"{line}\n" for line in defaults),
        "settings": "".join(f"{line}\n" for line in settings),
        "audio_dir": shlex.quote(str(recipe.audio_dir)),
        "stages": _stages(target, local),
    }


def _allowed(recipe: NewRecipe) -> list[str]:
    """Options of validate_cuts.py without which it would refuse what was kept, or copies of it at other speeds."""
    shortest, longest = recipe.min_duration / FASTEST, recipe.max_duration / SLOWEST
    options = ["--shared-texts allowed"] if recipe.texts_are_shared else []
    options += [f"--min-duration {math.floor(100 * shortest) / 100:g}"] if shortest < MIN_DURATION else []
    return options + ([f"--max-duration {math.ceil(longest)}"] if longest > MAX_DURATION else [])


def _stages(target: Path, local: Path) -> str:
    """Path of the stages as a shell finds it, wherever it is started."""
    seen = _seen_from(target, local / "corpus_stages.sh", clone=local.parent)
    return shlex.quote(seen) if Path(seen).is_absolute() else f'"$(dirname "${{BASH_SOURCE[0]}}")/{seen}"'


def _seen_from(target: Path, path: Path, *, clone: Path) -> str:
    """The way to a path from a recipe's folder in the same clone; from elsewhere the whole path."""
    if target.resolve().is_relative_to(clone.resolve()):
        return os.path.relpath(path.resolve(), target.resolve())
    return str(path.resolve())


if __name__ == "__main__":
    run_main(main)
