"""The asterisk recipe's prepare.sh, run for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, RecordingSet, SupervisionSet, validate_recordings_and_supervisions

from shared_moe_conformer.data.features import compute_features, resample
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.params import read_configs
from tests.conftest import copy_prepared, run_prepare
from tests.warm_python import user_environment

pytestmark = pytest.mark.slow

SPLITS = ("train", "dev", "test")
FEATURES = read_configs(Path(__file__).parents[2] / "egs/asterisk/ASR/config.py")["base"].features


def cuts_of(recipe: Path) -> dict[str, CutSet]:
    return {split: read_cuts(recipe / "data/fbank", split, recipe_dir=recipe) for split in SPLITS}


def test_counts_of_the_corpus(prepared_recipe: Path) -> None:
    cuts = cuts_of(prepared_recipe)
    assert {split: len(cuts[split]) for split in SPLITS} == {"train": 3 * 425, "dev": 62, "test": 52}
    words = Counter(word for cut in cuts["test"] for word in cut.supervisions[0].text.split())
    assert words.total() == 337
    known = {word for cut in cuts["train"] for word in cut.supervisions[0].text.split()}
    unknown = sum(count for word, count in words.items() if word not in known)
    assert 0.1 < unknown / 337 < 0.2, "words of the test that training never says"


def test_manifests_are_lhotses_and_keep_the_audio_as_it_is(prepared_recipe: Path) -> None:
    for split in SPLITS:
        recordings = RecordingSet.from_file(prepared_recipe / f"data/manifests/recordings_{split}.jsonl.gz")
        supervisions = SupervisionSet.from_file(prepared_recipe / f"data/manifests/supervisions_{split}.jsonl.gz")
        validate_recordings_and_supervisions(recordings, supervisions)
        assert {recording.sampling_rate for recording in recordings} == {8000}


def test_features_are_those_of_the_audio_file(prepared_recipe: Path, python_folder: Path) -> None:
    """They are computed again in a process of the same environment; in this one, `tune_cpu` may have been called."""
    code = (
        "import sys; from pathlib import Path; from tests.recipes.test_prepare_asterisk import largest_errors; "
        "print(*largest_errors(Path(sys.argv.pop())))"
    )
    environment = {**user_environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [python_folder / "python3", "-c", code, str(prepared_recipe)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    train, dev, test = map(float, result.stdout.split())
    assert train < 0.016 and max(dev, test) < 1e-5


def largest_errors(recipe: Path) -> list[float]:
    """The largest difference between stored and computed features, in five cuts of each split."""
    return [max(map(error_of, list(cuts_of(recipe)[split])[:5])) for split in SPLITS]


def error_of(cut: MonoCut) -> float:
    samples, sampling_rate = soundfile.read(cut.recording.sources[0].source, dtype="float32")
    features = compute_features(samples, sampling_rate, FEATURES)
    return float((features - torch.from_numpy(cut.load_features())).abs().max())


def test_a_microphone_is_heard_as_a_telephone_is(prepared_recipe: Path) -> None:
    """Hiss of -60 dBFS above 4 kHz, which no recording of the corpus has and every microphone gives."""
    cut = next(iter(cuts_of(prepared_recipe)["test"]))
    telephone, rate = soundfile.read(cut.recording.sources[0].source, dtype="float32")
    microphone = resample(telephone, rate, 16000)
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=len(microphone)))
    spectrum[: int(0.55 * len(spectrum))] = 0
    hiss = np.fft.irfft(spectrum, len(microphone))
    microphone = microphone + (1e-3 * hiss / hiss.std()).astype(np.float32)
    expected, found = compute_features(telephone, rate, FEATURES), compute_features(microphone, 16000, FEATURES)
    assert (found - expected).abs().mean() < 0.05, "1.8 with features at 16 kHz"


def test_the_test_set_in_16_khz_has_the_same_prompts(copied: Path) -> None:
    """G.722 files beside the prompts, made here of the telephone's; the package has 10 MB of them."""
    av = pytest.importorskip("av")
    command = [sys.executable, "local/build_wideband.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    missing = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True)
    assert missing.returncode != 0 and "asterisk-core-sounds-en-g722 first" in missing.stderr.splitlines()[-1]
    test = {cut.id: cut for cut in cuts_of(copied)["test"]}
    for cut in test.values():
        source = Path(cut.recording.sources[0].source).resolve()
        path = copied / "download/wideband" / source.relative_to((copied / "download").resolve()).with_suffix(".g722")
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate = soundfile.read(source, dtype="float32")
        wide = (resample(samples, rate, 16000) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wide[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        with av.open(str(path), "w", format="g722") as container:
            stream = container.add_stream("g722", rate=16000, layout="mono")
            for part in (frame, None):
                for packet in stream.encode(part):
                    container.mux(packet)
    made = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    wideband = read_cuts(copied / "data/manifests", "test-wideband", recipe_dir=copied)
    assert {c.id: c.supervisions[0].text for c in wideband} == {i: c.supervisions[0].text for i, c in test.items()}
    assert {cut.sampling_rate for cut in wideband} == {16000}
    (found,) = wideband[0].load_audio()
    telephone, rate = soundfile.read(test[wideband[0].id].recording.sources[0].source, dtype="float32")
    expected = resample(telephone, rate, 16000)[: len(found) - 100]
    delays = (np.corrcoef(found[delay : delay + len(expected)], expected)[0, 1] for delay in range(50))
    assert max(delays) > 0.95, "the codec delays by 1.4 ms"


def test_texts_can_be_written_in_the_units(prepared_recipe: Path) -> None:
    tokenizer = Tokenizer.load(prepared_recipe / "data/lang_bpe_64")
    assert tokenizer.vocab_size == 64
    for cuts in cuts_of(prepared_recipe).values():
        texts = [cut.supervisions[0].text for cut in cuts]
        assert [tokenizer.decode(ids) for ids in tokenizer.encode(texts)] == texts


def test_a_recipe_to_copy_that_has_not_been_prepared_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(pytest.fail.Exception, match=f"PREPARED_RECIPE has no {tmp_path}/download: run {tmp_path}/prep"):
        copy_prepared(tmp_path, tmp_path / "copy")


@pytest.fixture
def copied(prepared_recipe: Path, tmp_path: Path) -> Path:
    """A copy of the prepared recipe that a test may harm."""
    shutil.copytree(prepared_recipe.parents[2], tmp_path / "clone")
    return tmp_path / "clone/egs/asterisk/ASR"


def test_another_vocabulary_leaves_the_features_alone(copied: Path, python_folder: Path) -> None:
    features = (copied / "data/fbank/cuts_train.jsonl.gz").stat().st_mtime_ns
    result = run_prepare(copied, "--vocab-size", "200", python=python_folder)
    assert result.returncode == 0, result.stderr
    assert (copied / "data/fbank/cuts_train.jsonl.gz").stat().st_mtime_ns == features
    assert Tokenizer.load(copied / "data/lang_bpe_200").vocab_size == 200
    assert Tokenizer.load(copied / "data/lang_bpe_64").vocab_size == 64


def test_a_damaged_recording_stops_preparation_by_name(copied: Path, python_folder: Path) -> None:
    wav = copied / "download/usr/share/asterisk/sounds/en_US_f_Allison/vm-goodbye.wav"
    wav.write_bytes(wav.read_bytes()[:5000])
    result = run_prepare(copied, "--stage", "1", "--force", "true", python=python_folder)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ") and "vm-goodbye.wav is cut off" in result.stderr


def test_a_corpus_elsewhere_needs_no_download(copied: Path, python_folder: Path, tmp_path: Path) -> None:
    (copied / "download").rename(tmp_path / "corpus")
    shutil.rmtree(copied / "data")
    missing = run_prepare(copied, "--corpus-dir", str(tmp_path / "nothing"), python=python_folder)
    assert missing.returncode == 1 and "--corpus-dir must hold" in missing.stderr.splitlines()[-1]
    result = run_prepare(copied, "--corpus-dir", str(tmp_path / "corpus"), "--stop-stage", "2", python=python_folder)
    assert result.returncode == 0, result.stderr
    assert not (copied / "download").exists()


def test_without_apt_get_it_says_what_to_do(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "data")
    for program in ("bash", "dirname", "mkdir", "rm", "cat", "mktemp", "mv", "sed"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or "")
    (tmp_path / "bin/python3").symlink_to(shutil.which("true") or "")
    result = subprocess.run(
        [copied / "prepare.sh"], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "apt-get is missing" in result.stderr and "--corpus-dir DIR" in result.stderr


def test_killed_while_computing_features_it_starts_them_again(copied: Path, python_folder: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
    }
    manifest, stored = copied / "data/fbank/cuts_train.jsonl.gz", copied / "data/fbank/feats_train-1.lca"
    stored.unlink()
    with subprocess.Popen(
        [copied / "prepare.sh", "--stage", "3", "--force", "true"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while not stored.exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not manifest.exists()
    result = run_prepare(copied, "--stop-stage", "3", python=python_folder)
    assert result.returncode == 0, result.stderr
    assert "stage 2: Check the recordings (done before)" in result.stdout
    assert len(read_cuts(manifest.parent, "train", recipe_dir=copied)) == 3 * 425
