"""AN4: what its lists and its raw files say, and the whole chain on a corpus in miniature."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.distortions import codec_of
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.manifests import read_cuts
from tests.recipes.conftest import ROOT, Run
from tests.recipes.corpora import Clip, write_speech
from tests.recipes.loading import load

SPEAKERS = {"train": ("fash", "fbbh", "mblw", "mdxn"), "test": ("fcaw", "mmxg")}


@pytest.fixture(scope="module")
def manifests() -> ModuleType:
    return load(ROOT / "egs/an4/ASR/local/build_manifests.py")


def write_corpus(folder: Path, clips: Iterator[Clip], *, order: str = ">i2") -> Path:
    """an4/etc and an4/wav as CMU's archives have them, six utterances a speaker; the first of each is a SPHERE file."""
    number = itertools.count(251)
    for split, speakers in SPEAKERS.items():
        part = "an4_clstk" if split == "train" else "an4test_clstk"
        names, lines = [], []
        for speaker in speakers:
            for index, clip in enumerate(itertools.islice(clips, 6)):
                name = f"an{next(number)}-{speaker}-b"
                names.append(f"{part}/{speaker}/{name}\n")
                lines.append(f"<s> {clip.text} ++NOISE++ </s> ({name})\n")
                write_recording(folder / "an4/wav" / part / speaker / name, clip, order="sph" if index == 0 else order)
        (folder / "an4/etc").mkdir(exist_ok=True)
        (folder / f"an4/etc/an4_{split}.fileids").write_text("".join(names))
        (folder / f"an4/etc/an4_{split}.transcription").write_text("".join(lines))
    return folder


def write_recording(path: Path, clip: Clip, *, order: str) -> None:
    wav = path.with_suffix(".wav")
    write_speech(clip, wav)
    samples, rate = soundfile.read(str(wav), dtype="int16")
    wav.unlink()
    if order == "sph":
        soundfile.write(str(path.with_suffix(".sph")), samples, rate, format="NIST", subtype="PCM_16")
    else:
        path.with_suffix(".raw").write_bytes(samples.astype(order).tobytes())


def test_lines_of_the_transcriptions(manifests: ModuleType) -> None:
    assert manifests.parse_line("<s> U M N Y H SIX </s> (an255-fash-b)") == ("an255-fash-b", "U M N Y H SIX")
    assert manifests.parse_line("ERASE ++NOISE++ c (an407-fcaw-b) ") == ("an407-fcaw-b", "ERASE C")
    with pytest.raises(ValueError, match="not a line `WORDS"):
        manifests.parse_line("GO an409-fcaw-b")


@pytest.mark.parametrize("order", ["<i2", ">i2"])
@pytest.mark.parametrize("loudness", [3, 3000])
def test_the_byte_order_is_heard(manifests: ModuleType, order: str, loudness: int, tmp_path: Path) -> None:
    tone = loudness * np.sin(np.arange(8000) / 5) + np.random.default_rng(0).normal(0, loudness / 5, 8000)
    samples = tone.round().astype(np.int16)
    (tmp_path / "a.raw").write_bytes(samples.astype(order).tobytes())
    assert np.array_equal(manifests.read_samples(tmp_path / "a.raw"), samples)


def test_damaged_files_are_named(manifests: ModuleType, tmp_path: Path) -> None:
    for name, content in (("odd.raw", b"abc"), ("empty.raw", b""), ("a.sph", b"NIST_1A\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} .*unpack CMU's archive again"):
            manifests.read_samples(tmp_path / name)


def test_dev_has_whole_speakers_of_train(manifests: ModuleType) -> None:
    train = [manifests.Utterance(f"{s}-{n}", f"s{s}", Path(), "GO") for s in range(70) for n in range(13)]
    splits = manifests.splits_of(train, train[:5])
    speakers = {split: {utterance.speaker for utterance in its} for split, its in splits.items()}
    assert len(speakers["dev"]) == 6 and len(speakers["train"]) == 64, "8 % of 70, and not less"
    assert not speakers["dev"] & speakers["train"] and splits["test"] == train[:5]


def is_coded(name: str) -> bool:
    return codec_of(name, share=0.1) is not None


def change_of_features(cut: MonoCut) -> float:
    """How far a cut's stored features are from those of its recording, in the mean."""
    computed = compute_features(cut.load_audio()[0], cut.sampling_rate, FeatureConfig())
    return float(np.abs(cut.load_features() - computed.numpy()).mean())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["an4"], indirect=True)
def test_from_the_archive_to_a_released_model(
    recipe: Path, clips: list[Clip], run: Run, use: Callable[..., str], tmp_path: Path
) -> None:
    """The chain on other speech; so it tells nothing about accuracy."""
    corpus = write_corpus(tmp_path / "corpus", iter(clips))
    options = ("--corpus-dir", corpus, "--vocab-size", 40, "--perturb-speed", "false", "--ngram-order", 2)
    run(recipe / "prepare.sh", *options)
    splits = ("train", "dev", "test")
    cuts = {split: list(CutSet.from_file(recipe / f"data/fbank/cuts_{split}.jsonl.gz")) for split in splits}
    assert {split: len(its) for split, its in cuts.items()} == {"train": 18, "dev": 6, "test": 12}
    changes = {cut.id: change_of_features(cut) for cut in read_cuts(recipe / "data/fbank", "train", recipe_dir=recipe)}
    assert {name for name, change in changes.items() if change > 0.1} == {name for name in changes if is_coded(name)}
    assert any(map(is_coded, changes)), "prepare.sh has a tenth of the training cuts coded"
    texts = [cut.supervisions[0].text for cut in cuts["test"]]
    assert sorted(texts) == sorted(clip.text for clip in clips[24:36]), "without marks of noise"
    assert {cut.supervisions[0].speaker for cut in cuts["test"]} == {*SPEAKERS["test"]}
    use(recipe, "--vocab-size=40", "--lang-dir=data/lang_bpe_40", "--max-duration=60")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["an4"], indirect=True)
def test_what_is_missing_is_named(recipe: Path, clips: list[Clip], run: Run, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", iter(clips), order="<i2")
    stage_1 = (recipe / "prepare.sh", "--stop-stage", 1, "--corpus-dir")
    assert "--corpus-dir must be the folder of an4/" in run(*stage_1, corpus / "an4", status=1).stderr
    lines = corpus / "an4/etc/an4_test.transcription"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[1:]))
    assert "an4_test.transcription names an275-fcaw-b" in run(*stage_1, corpus, status=1).stderr
    next((corpus / "an4/wav/an4_clstk").rglob("*.raw")).unlink()
    assert ".raw or .sph: unpack CMU's archive again" in run(*stage_1, corpus, status=1).stderr
