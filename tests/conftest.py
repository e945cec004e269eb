"""A tiny released model for the tests of releasing: random weights, so that it says nonsense, but always the same."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig
from shared_moe_conformer.release.manifest import Manifest
from tests.warm_python import user_environment, warm_python

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported; tiny tensors only lose by threads

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's Ctrl-C is ignored, and its children's

if TYPE_CHECKING:
    from shared_moe_conformer.bundle import Bundle

ONE_ENVIRONMENT = {
    "k2": (
        "local/",
        "recipes/test_an4",
        "recipes/test_chains.py",
        "recipes/test_fillets.py",
        "recipes/test_forms_asterisk.py",
        "recipes/test_pages.py",
        "recipes/test_speechocean762.py",
        "recipes/test_uqm.py",
        "speech/",
        "test_live.py",
        "test_serve.py",
        "test_survival.py",
        "web/",
    ),
    "torch": (
        "ablation/",
        "benchmarks/",
        "release/",
        "reporting/",
        "test_atomic.py",
        "test_first_training.py",
        "test_zoo.py",
    ),
}
"""Beginnings of the paths of tests that fail or pass alike with any torch, and without k2, by the environment that runs
them where both run side by side; see docs/environments.md."""

TEXTS = ["PLEASE ENTER YOUR EXTENSION", "THANK YOU FOR CALLING", "ONE TWO THREE FOUR", "THE NUMBER YOU HAVE DIALED"]
TINY_VOCAB = 40
TINY = Config(
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=16,
            num_attention_heads=2,
            feed_forward_dim=24,
            conv_kernel_size=5,
            subsampling_channels=4,
            group_sizes=(2, 1),
            num_experts=3,
        ),
        vocab_size=TINY_VOCAB,
        decoder_dim=8,
        joiner_dim=12,
    ),
    data=DataConfig(corpus="telephone", language="en", licence="CC-BY-SA-3.0"),
)


@pytest.fixture(scope="session")
def lang_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of 40 units."""
    from shared_moe_conformer.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("lang") / "lang_bpe_40"
    train_tokenizer(TEXTS, folder, TINY_VOCAB)
    return folder


@pytest.fixture(scope="session")
def graph_lang_dir(tmp_path_factory: pytest.TempPathFactory, lang_dir: Path) -> Path:
    """That folder with a lexicon, an n-gram and a decoding graph, too."""
    pytest.importorskip("kaldifst")
    from shared_moe_conformer.data.tokenizer import Tokenizer
    from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE, Lexicon, build_word_graph
    from shared_moe_conformer.lattice.ngram import train_ngram

    folder = tmp_path_factory.mktemp("graph") / lang_dir.name
    shutil.copytree(lang_dir, folder)
    tokenizer, words = Tokenizer.load(lang_dir), sorted({word for text in TEXTS for word in text.split()})
    Lexicon(tokenizer.pieces, dict(zip(words, tokenizer.encode(words)))).save(folder)
    train_ngram([text.split() for text in TEXTS], 2).save(folder / NGRAM_FILE)
    build_word_graph(folder, "standard")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(lang_dir: Path, tones: np.ndarray) -> Bundle:
    """A model that finds tokens in the tones."""
    import torch

    from shared_moe_conformer.bundle import Bundle
    from shared_moe_conformer.data.features import compute_features
    from shared_moe_conformer.data.tokenizer import Tokenizer
    from shared_moe_conformer.model.asr_model import AsrModel

    torch.manual_seed(0)
    model = AsrModel(TINY.model).eval()
    with torch.no_grad():
        features = compute_features(tones, 16000, TINY.features)
        encoder_out = model.encode(features[None], torch.tensor([len(features)])).encoder_out[0]
        joined = model.joiner.encoder_projection(encoder_out).tanh()
        for head, x in ((model.joiner.output, joined), (model.ctc_head, encoder_out)):
            head.weight.mul_(5 / head(x).std(dim=0).mean())
            head.bias.sub_(head(x).mean(dim=0))
            head.bias[:3] += torch.tensor([6.0, -1e3, -1e3])  # often blank, never <sos/eos> or <unk>
    return Bundle(tiny_manifest(), TINY, model, Tokenizer.load(lang_dir))


def tiny_manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "tiny",
        "corpus": "telephone",
        "language": "en",
        "licence": "CC-BY-SA-3.0",
        "unique_parameters": 1000,
        "unrolled_parameters": 3000,
        "active_parameters": 2000,
        "decoding_method": "greedy_search",
        "error_rates": {"test": {"greedy_search": 98.7, "modified_beam_search": 97.6}},
        "commit": None,
    }
    return Manifest(**{**values, **changes})


@pytest.fixture(scope="session")
def tones() -> np.ndarray:
    """Two seconds of tones in noise at 16 kHz, another pitch and loudness every tenth of a second."""
    rng = np.random.default_rng(1)
    pitch, loudness = (np.repeat(rng.uniform(low, high, 20), 1600) for low, high in ((100, 6000), (0.01, 0.5)))
    tones = loudness * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + 0.01 * rng.normal(size=32000)
    return tones.astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path, tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray) -> Callable[..., Path]:
    """Write the tiny bundle under a name, into the test's folder."""
    import dataclasses

    from shared_moe_conformer.release.manifest import ExampleRecording

    def save(name: str = "tiny", **changes: Any) -> Path:
        bundle = dataclasses.replace(tiny_bundle, manifest=tiny_manifest(name=name, **changes))
        example = ExampleRecording(tones, 16000, "ONE TWO THREE FOUR")
        bundle.save(tmp_path / "zoo" / name, lang_dir=lang_dir, example=example)
        return tmp_path / "zoo" / name

    return save


@pytest.fixture(scope="session")
def python_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a python3 that starts in a moment."""
    with warm_python(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Iterator[Callable[[int], None]]:
    """Fill the small disk until a number of pages is left."""
    filler, page = small_disk / ".filler", 4096

    def fill(pages: int) -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(page)):
                pass
        with filler.open("r+b") as file:
            file.truncate(max(filler.stat().st_size // page - pages, 0) * page)

    yield fill
    filler.unlink(missing_ok=True)


def make_room(disk: Path) -> None:
    """Make the file system of `small_disk` larger."""
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.fixture(scope="session")
def downloaded_recipe(tmp_path_factory: pytest.TempPathFactory, python_folder: Path) -> Path:
    """A copy of the asterisk recipe's folder after its prepare.sh's first stage: real speech in `download`.

    With PREPARED_RECIPE=<recipe folder> in the environment, what is prepared there is copied instead.
    """
    root = Path(__file__).resolve().parent.parent
    clone = tmp_path_factory.mktemp("clone")
    recipe = clone / "egs/asterisk/ASR"
    shutil.copytree(root / "local", clone / "local")
    made = shutil.ignore_patterns("data", "download", "exp", "zoo")
    shutil.copytree(root / "egs/asterisk/ASR", recipe, ignore=made)
    if prepared := os.environ.get("PREPARED_RECIPE"):
        copy_prepared(Path(prepared), recipe)
    download = run_prepare(recipe, "--stop-stage", "0", python=python_folder)
    if "the packages cannot be downloaded" in download.stderr or "is missing: use a Debian" in download.stderr:
        pytest.skip(f"no corpus: {download.stderr.splitlines()[-1]}")
    return recipe


def copy_prepared(prepared: Path, recipe: Path) -> None:
    """Copy what a recipe's prepare.sh has made."""
    for folder in ("data", "download"):
        if not (prepared / folder).is_dir():
            pytest.fail(f"PREPARED_RECIPE has no {prepared / folder}: run {prepared / 'prepare.sh'}", pytrace=False)
        shutil.copytree(prepared / folder, recipe / folder)


@pytest.fixture(scope="session")
def prepared_recipe(downloaded_recipe: Path, python_folder: Path) -> Path:
    """The same after all stages, for slow tests."""
    result = run_prepare(downloaded_recipe, python=python_folder)
    assert result.returncode == 0, result.stderr
    return downloaded_recipe


def run_prepare(recipe: Path, *arguments: str, python: Path) -> subprocess.CompletedProcess[str]:
    """Run a recipe's prepare.sh with the python3 of a folder and this checkout's package, from another folder."""
    root = Path(__file__).resolve().parent.parent
    path = f"{python}{os.pathsep}{os.environ['PATH']}"
    environment = {**user_environment(), "PATH": path, "PYTHONPATH": str(root)}
    return subprocess.run([recipe / "prepare.sh", *arguments], env=environment, cwd="/", capture_output=True, text=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that the other environment runs at the same time (tests/run.sh)."""
    if os.environ.get("SIDE_BY_SIDE"):
        (other,) = ONE_ENVIRONMENT.keys() - {os.environ["ENGINE"]}
        tests = Path(__file__).resolve().parent
        places = {item: item.path.relative_to(tests).as_posix() for item in items}
        left_out = [item for item, place in places.items() if place.startswith(ONE_ENVIRONMENT[other])]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_call() -> None:
    """Begin each test with subnormal numbers: `tune_cpu`, in a test or a fixture before it, has taken them away.

    Strategies of hypothesis refuse to draw floats without them.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def encoder_config() -> Callable[..., EncoderConfig]:
    """A tiny encoder config with some options changed."""
    tiny = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=24,
        conv_kernel_size=5,
        subsampling_channels=4,
        group_sizes=(2, 2),
        num_experts=4,
        dropout=0.0,
    )

    def make(**options: Any) -> EncoderConfig:
        return dataclasses.replace(tiny, **options)

    return make


@pytest.fixture
def model_config(encoder_config: Callable[..., EncoderConfig]) -> Callable[..., ModelConfig]:
    """A tiny model config; the options are the encoder's."""

    def make(**options: Any) -> ModelConfig:
        return ModelConfig(encoder=encoder_config(**options), vocab_size=11, decoder_dim=8, joiner_dim=12)

    return make
