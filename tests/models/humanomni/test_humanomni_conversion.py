"""Converting published checkpoints: the same numbers under other names, or one error that says everything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import humanomni_plain as plain
import pytest
import torch
from humanomni_published import (
    REAL,
    TINY,
    bert_tokenizer,
    config_dicts,
    our_config,
    published_shapes,
    qwen2_tokenizer,
    random_tensors,
    write_checkpoint,
    write_towers,
)
from torch.testing import assert_close
from transformers import AutoProcessor

from erv_lightning.models.humanomni import HumanOmniForConditionalGeneration, HumanOmniProcessor
from erv_lightning.models.humanomni.conversion import Conversion, _placeholders
from erv_lightning.models.humanomni.published import published_name

UNUSED = {f"model.audio_tower.audio_tower.{part}" for part in ("projector.weight", "projector.bias")} | {
    f"model.audio_tower.audio_tower.{part}" for part in ("classifier.weight", "classifier.bias")
}


def convert(root: Path, size: str = "0.5B", form: str = "safetensors", **changes: Any) -> Path:
    """Writes a published folder, converts it and returns ours. A change of None takes a tensor out."""
    tensors = random_tensors(TINY[size]) | changes
    tensors = {name: value for name, value in tensors.items() if value is not None}
    source = write_checkpoint(root / "published", TINY[size], tensors, form)
    Conversion(source, write_towers(root / "towers", TINY[size])).save(root / "ours")
    return root / "ours"


@pytest.mark.parametrize("size", ["0.5B", "7B"])
@pytest.mark.parametrize("form", ["safetensors", "sharded-safetensors", "bin", "sharded-bin"])
def test_a_converted_checkpoint_computes_what_its_tensors_say(tmp_path: Path, size: str, form: str) -> None:
    sizes = TINY[size]
    model = HumanOmniForConditionalGeneration.from_pretrained(convert(tmp_path, size, form)).eval()
    config = model.config
    frames, mel = torch.randn(sizes.frames, 3, sizes.image, sizes.image), torch.randn(sizes.mels, 100)
    question = torch.tensor([2, 7, 9, 3])
    media = [config.video_token_id] * config.video_tokens, [config.audio_token_id] * config.audio_tokens
    with torch.no_grad():
        ours = model(
            input_ids=torch.tensor([[5, 6, *media[0], 7, *media[1], 8, 9]]),
            pixel_values_videos=frames[None],
            input_features=mel[None],
            question_input_ids=question[None],
        ).logits[0]
    theirs = plain.logits(random_tensors(sizes), [5, 6, "video", 7, "audio", 8, 9], frames, mel, question, sizes)
    assert theirs.std() > 0.3
    assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ["0.5B", "7B"])
def test_the_names_and_shapes_of_the_real_sizes_are_the_published_ones(size: str) -> None:
    with torch.device("meta"):
        model = HumanOmniForConditionalGeneration(our_config(REAL[size]))
    ours = {published_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    wanted = published_shapes(REAL[size])
    if REAL[size].tied:
        del ours["lm_head.weight"]
    assert ours == {name: shape for name, shape in wanted.items() if name not in UNUSED}


def test_every_value_arrives_and_only_the_unused_is_left_behind(tmp_path: Path) -> None:
    tensors = random_tensors(TINY["7B"])
    source = write_checkpoint(tmp_path / "published", TINY["7B"], tensors)
    conversion = Conversion(source, write_towers(tmp_path / "towers", TINY["7B"]))
    assert set(conversion.dropped) == UNUSED
    conversion.save(tmp_path / "ours")
    state = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "ours").state_dict()
    arrived = {published_name(name): value for name, value in state.items()}
    assert arrived.keys() == tensors.keys() - UNUSED
    for name, value in arrived.items():
        assert_close(value, tensors[name], atol=0, rtol=0)


def test_buffers_of_older_transformers_and_a_missing_classifier_are_no_error(tmp_path: Path) -> None:
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.bert_model.embeddings.position_ids": torch.arange(64)[None],
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(16)[None],
    }
    convert(tmp_path, **old, **dict.fromkeys(UNUSED))


def test_files_in_the_format_before_torch_1_6_are_read(tmp_path: Path) -> None:
    tensors = random_tensors(TINY["0.5B"])
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], tensors, "bin")
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    conversion = Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))
    assert_close(conversion.weights["model.norm.weight"], tensors["model.norm.weight"], atol=0, rtol=0)


# -- one error that says everything --------------------------------------------------------------------------------


def test_tensors_missing_unexpected_and_misshapen_are_one_error(tmp_path: Path) -> None:
    wrong = {
        "model.mm_projector.s2_body.b2.se.fc1.weight": None,
        "model.bert_gate.2.bias": None,
        "model.image_newline": torch.zeros(32),
        "model.layers.7.mlp.up_proj.weight": torch.zeros(48, 32),
        "model.mm_projector.sampler_video.0.weight": torch.zeros(32, 32, 2, 2, 1),
    }
    with pytest.raises(ValueError, match=r"2 missing: .*; 2 unexpected: .*; 1 wrong: ") as error:
        convert(tmp_path, **wrong)
    said = str(error.value)
    assert all(name in said for name in wrong)
    assert "(32, 32, 2, 2, 1), (32, 32, 2, 2, 2) is needed" in said
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["model.vision_tower.vision_tower.vision_model.head.probe", "model.norm.weight"])
def test_what_no_output_depends_on_is_needed_like_the_rest(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"1 missing: {name}$"):
        convert(tmp_path, **{name: None})


def test_a_head_of_its_own_is_needed_where_it_is_not_tied(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 missing: lm_head\.weight$"):
        convert(tmp_path, "7B", **{"lm_head.weight": None})


def test_a_tied_head_may_be_there_if_it_is_the_embedding(tmp_path: Path) -> None:
    embedding = random_tensors(TINY["0.5B"])["model.embed_tokens.weight"]
    ours = convert(tmp_path / "same", **{"lm_head.weight": embedding.clone()})
    model = HumanOmniForConditionalGeneration.from_pretrained(ours)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with pytest.raises(ValueError, match=r"lm_head\.weight is not model\.embed_tokens\.weight, although tie"):
        convert(tmp_path / "other", **{"lm_head.weight": embedding + 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"mm_projector_type": "stc_connector"},
            "mm_projector_type is 'stc_connector', one of all_in_one_small, all_in",
        ),
        ({"mm_audio_projector_type": "linear"}, "mm_audio_projector_type is 'linear', mlp2x_gelu is needed"),
        ({"mm_hidden_size": 1152}, "mm_hidden_size is 1152, but the vision tower"),
        ({"mm_projector_type": "all_in_one"}, "cannot halve SigLIP's grid of 4 × 4 patches"),
        ({"mm_vision_select_layer": -6}, "vision_select_layer is -6, but SigLIP has 3 layers"),
        ({"vocab_size": None}, "vocab_size is missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    content = config_dicts(TINY["0.5B"])["main"] | changes
    content = {key: value for key, value in content.items() if value is not None}
    (source / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(said)):
        Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))


def test_towers_that_are_not_at_hand_are_one_error_with_their_options(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    with pytest.raises(FileNotFoundError) as error:
        Conversion(source, {"vision": tmp_path})
    said = str(error.value)
    assert f"--vision-tower {tmp_path} has no config.json" in said
    assert "mm_audio_tower is 'openai/whisper-large-v3', which is no folder here): give --audio-tower DIR" in said
    assert "'bert-base-uncased', which is no folder here): give --question-encoder DIR" in said


def test_towers_are_found_in_the_folders_that_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    towers = write_towers(tmp_path / "towers", TINY["0.5B"])
    places = {"vision": "google/siglip-base-patch16-224", "audio": "published/openai/whisper-large-v3"}
    for name, place in {**places, "question": "bert-base-uncased"}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        towers[name].rename(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    assert Conversion(source, {}).config.vision_config.hidden_size == 20


def test_a_tower_of_another_kind_is_an_error(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    towers = write_towers(tmp_path / "towers", TINY["0.5B"])
    with pytest.raises(ValueError, match="holds a whisper, but --question-encoder is for a bert"):
        Conversion(source, towers | {"question": towers["audio"]})


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_file_cut_short_and_a_missing_shard_are_errors_with_their_names(tmp_path: Path, form: str) -> None:
    tensors = random_tensors(TINY["0.5B"])
    towers = write_towers(tmp_path / "towers", TINY["0.5B"])
    source = write_checkpoint(tmp_path / "whole", TINY["0.5B"], tensors, form)
    [path] = [file for file in source.iterdir() if file.suffix != ".json"]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{path.name} cannot be read"):
        Conversion(source, towers)
    source = write_checkpoint(tmp_path / "sharded", TINY["0.5B"], tensors, f"sharded-{form}")
    next(source.glob("*-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"names files that are not there: .*-00002-of-00003"):
        Conversion(source, towers)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Conversion(write_checkpoint(tmp_path / "empty", TINY["0.5B"], {}).joinpath("..", "towers", "audio"), towers)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path(tmp_path / "sprung").touch, ()

    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]), "bin")
    torch.save({"model.norm.weight": Trap()}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))
    assert not (tmp_path / "sprung").exists()


# -- what comes with the weights -----------------------------------------------------------------------------------


def test_dtype_special_tokens_and_sizes_come_from_the_published_configuration(tmp_path: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in random_tensors(TINY["0.5B"]).items()}
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], tensors)
    content = config_dicts(TINY["0.5B"])["main"] | {"torch_dtype": "bfloat16", "num_frames": 5}
    (source / "config.json").write_text(json.dumps(content))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4], "temperature": 0.7}))
    Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"])).save(tmp_path / "ours")
    model = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert model.config.num_frames == 5
    assert model.config.video_tokens == 20
    assert model.config.text_config.rope_parameters["rope_theta"] == 1e6
    assert model.config.gate_width == 10
    assert model.generation_config.eos_token_id == [2, 4]
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {saved[f"{name}_config"]["dtype"] for name in ("vision", "audio", "question", "text")} == {"bfloat16"}
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "ours").glob("*.json"))


def test_without_tokenizers_the_placeholders_lie_beyond_the_vocabulary(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    conversion = Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))
    assert conversion.processor is None
    assert len(conversion.missing) == 2
    assert (conversion.config.video_token_id, conversion.config.audio_token_id) == (300, 301)


@pytest.mark.parametrize(("rows", "first"), [(151936, 151646), (152064, 151646), (151647, 151647)])
def test_without_a_tokenizer_qwen2s_own_is_left_its_ids(rows: int, first: int) -> None:
    assert _placeholders(None, rows) == {"video": first, "audio": first + 1}


def test_tokenizers_that_are_found_make_a_processor(tmp_path: Path) -> None:
    sizes = TINY["0.5B"]
    source = write_checkpoint(tmp_path / "published", sizes, random_tensors(sizes))
    towers = write_towers(tmp_path / "towers", sizes)
    qwen2_tokenizer().save_pretrained(source)
    bert_tokenizer().save_pretrained(towers["question"])
    Conversion(source, towers).save(tmp_path / "ours")
    model = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert isinstance(processor, HumanOmniProcessor)
    assert (model.config.video_token_id, model.config.audio_token_id) == (259, 260)
    assert (processor.video_token_id, processor.audio_token_id) == (259, 260)
    inputs = processor(
        ["Which emotion?", "What do you hear?"],
        videos=[torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8)] * 2,
        audio=[torch.randn(9000).clamp(-1, 1)] * 2,
        sampling_rate=16000,
    )
    written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert written.shape == (2, inputs["input_ids"].shape[1] + 3)


def test_a_tokenizer_alone_is_kept_with_its_placeholders(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    qwen2_tokenizer().save_pretrained(source)
    conversion = Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))
    conversion.save(tmp_path / "ours")
    assert conversion.missing == [f"a tokenizer in {tmp_path / 'towers' / 'question'}"]
    assert "<|video_pad|>" in (tmp_path / "ours" / "tokenizer.json").read_text()
    assert not (tmp_path / "ours" / "processor_config.json").exists()


def test_a_tokenizer_too_large_for_the_embedding_is_an_error(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    tokenizer = qwen2_tokenizer()
    tokenizer.add_tokens([f"<word{number}>" for number in range(50)])
    tokenizer.save_pretrained(source)
    with pytest.raises(ValueError, match="the tokenizer has 309 tokens, the embedding has only 300 rows"):
        Conversion(source, write_towers(tmp_path / "towers", TINY["0.5B"]))


@pytest.mark.parametrize(
    ("tower", "content", "said"),
    [
        ("vision", {"image_processor_type": "SiglipImageProcessor", "size": {"height": 64, "width": 64}}, "32 × 32"),
        ("audio", {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80}, "reads 8 and 100"),
    ],
)
def test_a_preprocessor_of_another_size_is_an_error(
    tmp_path: Path, tower: str, content: dict[str, Any], said: str
) -> None:
    source = write_checkpoint(tmp_path / "published", TINY["0.5B"], random_tensors(TINY["0.5B"]))
    towers = write_towers(tmp_path / "towers", TINY["0.5B"])
    qwen2_tokenizer().save_pretrained(source)
    bert_tokenizer().save_pretrained(towers["question"])
    (towers[tower] / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        Conversion(source, towers)
