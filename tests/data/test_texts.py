from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.data.texts import TextLoader, file_texts, known_sentences, split_texts
from shared_moe_conformer.data.tokenizer import train_tokenizer

SENTENCES = [[n] * (n % 7 + 1) for n in range(1, 40)]


def test_texts_are_spelled_as_transcripts_are_and_unknown_ones_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"你好{character}界" for character in "世天地人水火山石田土木"]
    tokenizer = train_tokenizer(texts, tmp_path / "lang", None)
    (tmp_path / "texts").write_text("".join(f" {text}\n" for text in [*texts, "你好X"]), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "shared_moe_conformer"):
        sentences = known_sentences(file_texts(tmp_path / "texts"), tokenizer, name="texts")
    assert sentences == tokenizer.encode(texts) and {len(sentence) for sentence in sentences} == {4}
    assert "1 of 12 lines of texts have characters that no unit holds, first '你好X': they" in caplog.text
    with pytest.raises(ValueError, match="2 of 3 lines of text have .* first '你X': write them as the transcripts are"):
        known_sentences(["你好", "你X", "X"], tokenizer, name="text")


def make_loader(**options: int | None) -> TextLoader:
    return TextLoader(SENTENCES, name="text", **{"max_tokens": 30, "seed": 3, **options})


def contents(loader: TextLoader) -> list[list[list[int]]]:
    return [[row[:n].tolist() for row, n in zip(batch.y, batch.y_lens)] for batch in loader]


def test_an_epoch_has_every_text_once_in_batches_of_at_most_so_many_tokens() -> None:
    loader = make_loader()
    batches = list(loader)
    found = [row[:n].tolist() for batch in batches for row, n in zip(batch.y, batch.y_lens)]
    assert sorted(found) == sorted(SENTENCES) and len(batches) == len(loader) > 5
    assert all(len(batch.y) * (batch.y.size(1) + 1) <= 30 for batch in batches)
    assert loader.num_tokens == sum(len(s) + 1 for s in SENTENCES)
    assert batches[0].cut_ids[0].startswith("text ") and batches[0].x_lens.sum() == 0


def test_a_longer_text_is_a_batch_by_itself() -> None:
    assert [len(batch) for batch in contents(TextLoader([[1] * 50, [2]], name="t", max_tokens=10))] == [1, 1]


def test_epochs_differ_follow_from_their_number_and_go_on_where_they_stopped() -> None:
    loader, other = make_loader(), make_loader()
    first = contents(loader)
    loader.set_epoch(2)
    second = contents(loader)
    other.set_epoch(2)
    iterator = iter(other)
    begun = [next(iterator) for _ in range(3)]
    resumed = make_loader()
    resumed.load_state_dict(json.loads(json.dumps(other.state_dict())))
    assert first != second and len(begun) == 3 and second[3:] == contents(resumed)


def test_other_texts_are_refused_when_a_training_goes_on() -> None:
    with pytest.raises(ValueError, match="epoch 1 has other batches"):
        TextLoader([[1, 2]], name="text", max_tokens=30, seed=3).load_state_dict(make_loader().state_dict())


def test_without_a_seed_the_longest_come_first_every_time() -> None:
    loader = make_loader(seed=None)
    assert contents(loader) == contents(loader)
    lens = torch.cat([batch.y_lens for batch in loader])
    assert lens.tolist() == sorted(lens.tolist(), reverse=True)


def test_lines_without_words_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\ufeffONE  TWO\n\n \nTHREE\n", encoding="utf-8")
    assert file_texts(tmp_path / "texts") == ["ONE TWO", "THREE"]


def test_marks_in_texts_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "texts").write_text("ONE\nTWO [noise] (laughs)\n[noise]\n")
    assert file_texts(tmp_path / "texts") == ["ONE", "TWO [noise] (laughs)", "[noise]"]
    assert "[noise] 2 times, (laughs) 1 time; first in texts line 2" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n \n", "holds no words"), (b"\xff\xfe\xff", "texts line 1 is not UTF-8")]
)
def test_files_without_texts_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        file_texts(tmp_path / "texts")


def test_missing_texts_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give a file with one sentence a line"):
        file_texts(tmp_path / "texts")
    with pytest.raises(FileNotFoundError, match="run ./prepare.sh first"):
        split_texts(tmp_path / "cuts_train.jsonl.gz")
