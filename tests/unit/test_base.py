from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertConfig, PreTrainedModel

from taggen import adapter, base, batches, corpus, tagger, trainable, training, windows
from taggen.adapter import Card
from taggen.base import fingerprint, load_base
from taggen.corpus import Labelled
from taggen.errors import BaseModelError
from taggen.listing import Listing
from tests import tokenizers
from tests.tiny import TAG_SET, Tiny

CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 514,
}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
MODERN = {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 8, "global_attn_every_n_layers": 2}
FAMILIES: dict[str, tuple[Tokenizer, dict[str, Any]]] = {
    "Bert": (tokenizers.word_piece(), {}),
    "Ernie": (tokenizers.word_piece(), {}),
    "MPNet": (tokenizers.word_piece(), {}),
    "Roberta": (tokenizers.byte_level(), {}),
    "XLMRoberta": (tokenizers.unigram(), {}),
    "ModernBert": (tokenizers.byte_level(), MODERN),
}


def write(family: str, folder: Path, kind: str = "Model", **changes: Any) -> PreTrainedModel:
    """Write a random checkpoint of a family, two layers deep, with a tokenizer of its kind."""
    tokenizer, own = FAMILIES.get(family, FAMILIES["Bert"])
    tokenizers.save(tokenizer, folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **(CONFIG | IDS | {"vocab_size": tokenizer.get_vocab_size()} | own | changes)
    )
    model: PreTrainedModel = getattr(transformers, f"{family}{kind}")(config)
    model.save_pretrained(folder)
    return model


def labelled() -> list[Labelled]:
    """Four listings, enough for two steps of two."""
    listing = Listing("m", "p", 1, "Nike red shoe", description="soft leather", attributes={"Colour": "Red"})
    spans = (corpus.Span("title", 0, 4, "brand"), corpus.Span("description", 5, 12, "material"))
    return [Labelled(replace(listing, product_id=str(number)), spans) for number in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_any_family_goes_the_whole_way(family: str, tmp_path: Path) -> None:
    """Load, train two steps, save, serve it with int8 and without: tags come out, a row alone as beside others."""
    folder = str(tmp_path / "base")
    write(family, tmp_path / "base")
    base = load_base(folder)
    settings = training.Settings(epochs=1, batch_listings=2, rank=4, alpha=8, warm_up=0, learning_rate=1e-2)
    trained = training.train(base, labelled(), TAG_SET, settings, dev=labelled()[:1])
    assert trained.epochs[0].f1 is not None
    card = Card("two-steps", "1", "*", base.name, base.fingerprint, tuple(replace(tag, threshold=0) for tag in TAG_SET))
    trainable.save(trained.model, card, tmp_path / "adapter")
    head = adapter.read(tmp_path / "adapter").head()[1]
    assert head.abs().max() > 0
    _favour_tags(tmp_path / "adapter")
    listings = [Listing("m", str(n), 1, "red shoe, soft " * n + "leather") for n in (1, 2, 3, 5, 40)]
    for quantization in ("int8", "none"):
        served = tagger.load(folder, tmp_path / "adapter", quantization, "float32", "cpu")
        together = served.tag(served.prepare(listings))
        assert [len(tagging.tags) > 0 for tagging in together] == [True] * len(listings)
        assert together == [served.tag(served.prepare([listing]))[0] for listing in listings]


def _favour_tags(folder: Path) -> None:
    """Make "no tag" improbable: two steps of training do not."""
    path = folder / adapter.TENSORS
    tensors = load_file(path)
    tensors["base_model.model.head.bias"][0] = -20
    save_file(tensors, path)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_masked_in_every_family(family: str, tmp_path: Path) -> None:
    """A padded row has the hidden states of the same row alone without a mask, as the model's makers run it."""
    write(family, tmp_path / "base")
    base = load_base(str(tmp_path / "base"))
    listings = [Listing("m", str(n), 1, "red shoe, " * n) for n in (2, 3, 6, 80)]
    ids, mask = batches.rows(windows.prepare(listings, base.tokenizer, base.special), base.special)
    with torch.inference_mode():
        padded = base.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, length in enumerate(mask.sum(-1).tolist()):
            plain = base.encoder(input_ids=ids[row : row + 1, :length]).last_hidden_state
            torch.testing.assert_close(padded[row, :length], plain[0], atol=1e-4, rtol=1e-4)


def test_what_is_loaded_is_frozen_and_without_a_limit_of_its_own(tmp_path: Path) -> None:
    """No weight is trained by accident, no dropout drops, and the tokenizer cuts nothing and pads nothing."""
    tokenizer = tokenizers.word_piece()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    write("Bert", tmp_path)
    tokenizers.save(tokenizer, tmp_path)
    base = load_base(str(tmp_path))
    assert not base.encoder.training
    assert not any(parameter.requires_grad for parameter in base.encoder.parameters())
    assert len(base.tokenizer.encode("red " * 20, add_special_tokens=False).ids) == 20
    assert base.hidden_size == 32


def test_the_fingerprint_is_of_the_weights_not_of_the_files(tmp_path: Path) -> None:
    """Shards, a pooler or another head beside the encoder change nothing; one weight does, or one setting."""
    model = write("Bert", tmp_path / "whole")
    print_ = load_base(str(tmp_path / "whole")).fingerprint
    tokenizers.save(FAMILIES["Bert"][0], tmp_path / "shards")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load_base(str(tmp_path / "shards")).fingerprint == print_
    encoder = load_base(str(tmp_path / "whole")).encoder
    with torch.no_grad():
        encoder.encoder.layer[1].output.dense.bias[3] += 1e-7
    assert fingerprint(encoder) != print_
    write("Bert", tmp_path / "other", layer_norm_eps=1e-6)
    assert load_base(str(tmp_path / "other")).fingerprint != print_


def test_a_checkpoint_with_another_head_loads_as_its_encoder(tmp_path: Path) -> None:
    """What was saved for masked language modelling has the same encoder, under other names."""
    masked = write("Bert", tmp_path, "ForMaskedLM")
    assert torch.equal(
        load_base(str(tmp_path)).encoder.embeddings.word_embeddings.weight,
        masked.bert.embeddings.word_embeddings.weight,
    )


@pytest.mark.parametrize(
    ("family", "kind", "changes"),
    [
        ("GPT2", "LMHeadModel", {"n_layer": 2}),
        ("Llama", "ForCausalLM", {}),
        ("Bart", "Model", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}),
        ("Bert", "LMHeadModel", {"is_decoder": True}),
    ],
)
def test_what_is_no_encoder_is_refused(family: str, kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Causal models and encoder-decoders are named as what they are, even with an encoder's tokenizer."""
    write(family, tmp_path, kind, **changes)
    with pytest.raises(BaseModelError, match="not an encoder"):
        load_base(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """A checkpoint that has no safetensors is not opened: a pickle can run anything."""
    model = write("Bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="safetensors"):
        load_base(str(tmp_path))


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    """transformers would fill it with random values, others at each start."""
    write("Bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lacks encoder\.layer\.1\.output\.dense\.weight"):
        load_base(str(tmp_path))


def test_damage_and_absence_are_told_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    """Cut weights, weights of another size, no config, nothing at all."""
    write("Bert", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    write("Bert", tmp_path / "narrow", hidden_size=16)
    (tmp_path / "narrow" / "config.json").write_bytes((tiny.base / "config.json").read_bytes())
    (tmp_path / "empty").mkdir()
    for name in ("cut", "narrow", "empty", "absent"):
        with pytest.raises(BaseModelError, match="cannot be loaded") as caught:
            load_base(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_base_that_reads_less_than_a_window_is_refused(tmp_path: Path) -> None:
    """It would fail on the first long listing instead."""
    write("Bert", tmp_path, max_position_embeddings=128)
    with pytest.raises(BaseModelError, match="128 tokens"):
        load_base(str(tmp_path))


def test_a_tokenizer_without_the_framing_tokens_is_refused(tmp_path: Path) -> None:
    """Rows are framed by a cls and a sep token."""
    write("Bert", tmp_path)
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.word_piece(), pad_token=tokenizers.PAD)
    bare.save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="lacks a cls, sep or pad token"):
        load_base(str(tmp_path))


def test_the_tokenizers_digest_is_of_its_content(tmp_path: Path) -> None:
    """Another vocabulary is another digest, and so another tagger."""
    write("Bert", tmp_path)
    before = load_base(str(tmp_path))
    changed = tokenizers.word_piece()
    changed.add_tokens(["waterproof"])
    tokenizers.save(changed, tmp_path)
    after = load_base(str(tmp_path))
    assert (after.fingerprint == before.fingerprint, after.tokenizer_digest == before.tokenizer_digest) == (True, False)
    assert BertConfig.from_pretrained(tmp_path).vocab_size < changed.get_vocab_size()


@pytest.mark.parametrize("computes", [True, False])
def test_updates_have_half_the_bits_where_a_cpu_computes_with_them(
    computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside 8-bit layers alone, which round as coarsely; it is another numerics class."""
    monkeypatch.setattr(base, "computes_bfloat16", lambda device: computes)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert base.update_dtype("int8", torch.float32, cpu) == (torch.bfloat16 if computes else torch.float32)
    assert base.update_dtype("none", torch.float32, cpu) == torch.float32
    assert base.update_dtype("int8", torch.float16, cuda) == torch.float16
    assert ("BF16" in base.numerics_class(cpu)) == computes
