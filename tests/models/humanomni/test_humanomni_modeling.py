"""The whole model: what it computes, and that it trains, generates and saves as transformers' own do."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import humanomni_plain as plain
import pytest
import torch
from humanomni_published import TINY, Sizes, our_config, random_tensors
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM

from erv_lightning.models.humanomni import HumanOmniConfig, HumanOmniForConditionalGeneration, HumanOmniModel
from erv_lightning.models.humanomni.published import is_dropped, our_name

SIZES = TINY["0.5B"]
VIDEO, AUDIO = SIZES.words, SIZES.words + 1
MEDIA = {"pixel_values_videos", "question_input_ids", "question_attention_mask"}
Inputs = dict[str, Tensor]


def made(sizes: Sizes = SIZES, **changes: Any) -> Any:
    """A model with the published tensors of seed 0, in evaluation mode."""
    model = HumanOmniForConditionalGeneration(our_config(sizes, **changes)).eval()
    state = {our_name(name): value for name, value in random_tensors(sizes).items() if not is_dropped(name)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] * sizes.tied, [])
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return made()


@pytest.fixture(scope="module")
def writer() -> Any:
    """A model with a head of its own: a tied one of random weights says the last token over and over."""
    return made(replace(SIZES, tied=False))


def prompt(video: bool = True, audio: bool = True, tail: tuple[int, ...] = (8, 9)) -> list[int]:
    return [5, 6, *[VIDEO] * (12 * video), 7, *[AUDIO] * (16 * audio), *tail]


def inputs(video: bool = True, audio: bool = True, clips: int = 2, frames: int = 3) -> Inputs:
    ids = torch.tensor([prompt(video, audio)] * clips)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if video:
        given["pixel_values_videos"] = torch.randn(clips, frames, 3, 32, 32)
        given["question_input_ids"] = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])[:clips]
        given["question_attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])[:clips]
    if audio:
        given["input_features"] = torch.randn(clips, 8, 100)
    return given


def row(given: Inputs, clip: int) -> Inputs:
    return {name: value[clip : clip + 1] for name, value in given.items()}


# -- what it computes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("video", "audio"), [(True, True), (True, False), (False, True), (False, False)])
@torch.no_grad()
def test_logits_are_those_of_the_parts_put_together_by_hand(model: Any, video: bool, audio: bool) -> None:
    given = inputs(video, audio)
    ours = model(**given).logits
    assert ours.shape == (2, len(prompt(video, audio)), SIZES.words)
    words = [5, 6, *["video"] * video, 7, *["audio"] * audio, 8, 9]
    for clip, length in enumerate((4, 3)):  # of the questions
        frames = given["pixel_values_videos"][clip] if video else None
        mel = given["input_features"][clip] if audio else None
        question = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])[clip, :length]
        theirs = plain.logits(random_tensors(SIZES), words, frames, mel, question, SIZES)
        assert_close(ours[clip], theirs, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_every_input_matters(model: Any) -> None:
    given = inputs()
    before = model(**given).logits[:, -1]
    for name in ("pixel_values_videos", "input_features"):
        assert (model(**given | {name: given[name] + 1}).logits[:, -1] - before).abs().max() > 1e-3
    other = given | {"question_input_ids": torch.full((2, 4), 11)}
    assert (model(**other).logits[:, -1] - before).abs().max() > 1e-3


@torch.no_grad()
def test_features_are_what_the_placeholders_become(model: Any) -> None:
    given = inputs()
    question = given["question_input_ids"], given["question_attention_mask"]
    seen = model.get_video_features(given["pixel_values_videos"], *question)
    heard = model.get_audio_features(given["input_features"])
    assert (seen.shape, heard.shape) == ((2, 12, 32), (2, 16, 32))
    table = model.get_input_embeddings().weight
    embeds = torch.cat(
        [table[[5, 6]].expand(2, -1, -1), seen, table[[7]].expand(2, -1, -1), heard, table[[8, 9]].expand(2, -1, -1)], 1
    )
    by_hand = model(inputs_embeds=embeds, attention_mask=given["attention_mask"]).logits
    assert_close(model(**given).logits, by_hand, atol=0, rtol=0)


@torch.no_grad()
def test_any_number_of_frames_is_read(model: Any) -> None:
    given = inputs(audio=False, frames=5)
    given["input_ids"] = torch.tensor([[5, *[VIDEO] * 20, 6]] * 2)
    del given["attention_mask"]
    assert model(**given).logits.shape == (2, 22, SIZES.words)


@torch.no_grad()
def test_a_left_padded_batch_equals_its_prompts_one_by_one(model: Any) -> None:
    given = inputs()
    short, long = prompt(tail=(8,)), prompt(tail=(8, 9, 10, 11))
    given["input_ids"] = torch.tensor([[0] * 3 + short, long])
    given["attention_mask"] = torch.tensor([[0] * 3 + [1] * len(short), [1] * len(long)])
    together = model(**given).logits
    for clip, ids in enumerate((short, long)):
        alone = row(given, clip) | {"input_ids": torch.tensor([ids])}
        del alone["attention_mask"]
        assert_close(together[clip, -len(ids) :], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_selected_layer_is_the_one_that_is_read(model: Any) -> None:
    given = inputs(audio=False)
    pixels = given["pixel_values_videos"].flatten(0, 1)
    hidden = model.model.vision_tower.encoder.layers
    embedded = model.model.vision_tower.embeddings(pixels)
    for layers in range(3):
        states = embedded
        for layer in hidden[:layers]:
            states = layer(states, None)
        assert_close(model.model.vision_tower(pixels, layers), states, atol=0, rtol=0)
    assert [our_config(SIZES, vision_select_layer=index).vision_layers for index in (-1, -2, 0, 3)] == [3, 2, 0, 3]


@torch.no_grad()
def test_attention_implementations_agree() -> None:
    given = inputs()
    sdpa, eager = made(attn_implementation="sdpa"), made(attn_implementation="eager")
    towers = ("vision_tower", "audio_tower", "question_encoder", "language_model")
    assert {getattr(eager.model, name).config._attn_implementation for name in towers} == {"eager"}
    assert_close(sdpa(**given).logits, eager(**given).logits, atol=1e-4, rtol=1e-4)


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": [5, *[VIDEO] * 11, 7, *[AUDIO] * 16, 8]}, r"\[11, 11\] video placeholders \(id 300\).* 12 feat"),
        ({"input_ids": [5, *[VIDEO] * 12, 7, *[AUDIO] * 18, 8]}, r"\[18, 18\] audio placeholders \(id 301\).* 16 feat"),
        ({"input_features": None}, r"\[16, 16\] audio placeholders \(id 301\) in the prompts, 0 features"),
        ({"pixel_values_videos": None}, r"\[12, 12\] video placeholders \(id 300\) in the prompts, 0 features"),
        ({"input_ids": [5, 6, 7]}, r"\[0, 0\] video placeholders .* 12 features each; \[0, 0\] audio"),
        ({"question_input_ids": None}, "give question_input_ids"),
    ],
)
def test_wrong_counts_say_how_many_there_are(model: Any, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = inputs()
    for name, value in change.items():
        given[name] = value if value is None else torch.tensor([value] * 2)
    del given["attention_mask"]
    with pytest.raises(ValueError, match=said):
        model(**given)


def test_one_prompt_cannot_lend_its_placeholders_to_another(model: Any) -> None:
    given = inputs(audio=False)
    given["input_ids"] = torch.tensor([[5, *[VIDEO] * 11, 7, 8], [*[VIDEO] * 13, 7]])
    del given["attention_mask"]
    with pytest.raises(ValueError, match=r"\[11, 13\] video placeholders"):
        model(**given)


def test_inputs_that_do_not_go_together_are_errors(model: Any) -> None:
    given = inputs()
    embeds = torch.randn(2, 4, 32)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(attention_mask=given["attention_mask"])
    with pytest.raises(ValueError, match="inputs_embeds hold the media already"):
        model(inputs_embeds=embeds, input_features=given["input_features"])
    with pytest.raises(ValueError, match=r"\[12, 12\] video placeholders .* 0 features each; \[16, 16\] audio"):
        model(input_ids=given["input_ids"])
    with pytest.raises(ValueError, match="2 prompts and the audio of 1 clips"):
        model(**given | {"input_features": given["input_features"][:1]})
    with pytest.raises(ValueError, match="2 clips and 1 questions"):
        model(**given | {"question_input_ids": given["question_input_ids"][:1]})
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 3, 16, 16\), \(clips, frames, 3, 32, 32\) is needed"):
        model(**given | {"pixel_values_videos": torch.randn(2, 3, 3, 16, 16)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"projector_type": "stc"}, "projector_type 'stc' is unknown, one of all_in_one_small, all_in_one"),
        ({"projector_type": "all_in_one"}, "grid of 4 × 4 patches"),
        ({"vision_select_layer": 4}, "vision_select_layer is 4, but SigLIP has 3 layers"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HumanOmniConfig(**our_config(SIZES).to_dict() | change)


# -- generation ----------------------------------------------------------------------------------------------------


def test_generation_with_a_cache_reads_the_media_once_and_says_the_same(writer: Any) -> None:
    given = inputs()
    calls = {"vision_tower": 0, "audio_tower": 0, "question_encoder": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return getattr(writer.model, name).register_forward_hook(hook)

    hooks = [count(name) for name in calls]
    settings = {"max_new_tokens": 7, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    cached = writer.generate(**given, **settings)
    assert set(calls.values()) == {1}
    again = writer.generate(**given, **settings, use_cache=False)
    assert set(calls.values()) == {1 + 7}
    for hook in hooks:
        hook.remove()
    assert torch.equal(cached.sequences, again.sequences)
    assert cached.sequences.shape == (2, len(prompt()) + 7)
    for one, other in zip(cached.logits, again.logits, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert (one[0] - one[1]).abs().max() > 1e-2  # each saw its own clip


def test_left_padded_prompts_generate_as_they_do_alone(writer: Any) -> None:
    given = inputs()
    short, long = prompt(tail=(8,)), prompt(tail=(8, 9, 10, 11))
    given["input_ids"] = torch.tensor([[0] * 3 + short, long])
    given["attention_mask"] = torch.tensor([[0] * 3 + [1] * len(short), [1] * len(long)])
    settings = {"max_new_tokens": 6, "do_sample": False}
    together = writer.generate(**given, **settings)
    for clip, ids in enumerate((short, long)):
        alone = row(given, clip) | {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        assert torch.equal(writer.generate(**alone, **settings)[0, -6:], together[clip, -6:])


def test_several_sequences_of_a_prompt_each_see_its_clip(writer: Any) -> None:
    given = inputs()
    settings = {"max_new_tokens": 4, "do_sample": False}
    beams = writer.generate(**given, **settings, num_beams=2, num_return_sequences=2)
    assert beams.shape == (4, len(prompt()) + 4)
    repeated = {name: value.repeat_interleave(2, 0) for name, value in given.items()}
    torch.manual_seed(1)
    several = writer.generate(**given, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    torch.manual_seed(1)
    assert torch.equal(several, writer.generate(**repeated, max_new_tokens=4, do_sample=True))


@torch.no_grad()
def test_a_prompt_can_be_read_in_two_steps(model: Any) -> None:
    given = inputs()
    whole = model(**given).logits
    first = {**given, "input_ids": given["input_ids"][:, :-2], "attention_mask": given["attention_mask"][:, :-2]}
    begun = model(**first, use_cache=True)
    rest = model(input_ids=given["input_ids"][:, -2:], past_key_values=begun.past_key_values)
    assert_close(torch.cat([begun.logits, rest.logits], 1), whole, atol=1e-4, rtol=1e-4)
    said = torch.tensor([[VIDEO], [AUDIO]])  # by sampling, which must not end a generation
    assert model(input_ids=said, past_key_values=rest.past_key_values).logits.shape == (2, 1, SIZES.words)


def test_after_the_first_step_no_media_are_handed_on(model: Any) -> None:
    given = inputs()
    later = {"is_first_iteration": False, "next_sequence_length": 1}
    for cached, names in ((True, set()), (False, {*MEDIA, "input_features"})):
        step = model.prepare_inputs_for_generation(**given, **later, use_cache=cached)
        assert step.keys() & {*MEDIA, "input_features"} == names
    first = model.prepare_inputs_for_generation(**given, is_first_iteration=True, use_cache=True)
    assert first.keys() >= given.keys()


@torch.no_grad()
def test_logits_can_be_kept_of_the_last_tokens_alone(model: Any) -> None:
    given = inputs()
    whole = model(**given).logits
    assert_close(model(**given, logits_to_keep=3).logits, whole[:, -3:])
    assert_close(model(**given, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]])
    assert isinstance(model(**given, return_dict=False), tuple)
    assert len(model(**given, output_hidden_states=True).hidden_states) == 3


# -- training ------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_next_labelled_token(model: Any) -> None:
    given = inputs()
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, -2:] = given["input_ids"][:, -2:]
    out = model(**given, labels=labels)
    scores = out.logits[:, -3:-1].log_softmax(-1)
    by_hand = -scores.gather(2, labels[:, -2:, None]).mean()
    assert_close(out.loss, by_hand)


def gradients(model: Any, given: Inputs) -> Inputs:
    model.zero_grad()
    model(**given).logits.square().mean().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_leaves_the_gradients_as_they_are() -> None:
    model, given = made().train(), inputs()
    plainly = gradients(model, given)
    calls = []
    model.model.visual_projector.video.s1.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients(model, given)
    assert len(calls) == 2  # once more in the backward pass
    assert plainly.keys() == again.keys()
    for name, value in plainly.items():
        assert_close(again[name], value, atol=1e-6, rtol=1e-4)


def test_what_gets_no_gradient_is_what_the_model_says_is_unused() -> None:
    model = made().train()
    reached = gradients(model, inputs()).keys()
    unused = {id(parameter) for parameter in model.model.unused_parameters()}
    frozen = {"model.audio_tower.embed_positions.weight"}  # by Whisper itself
    for name, parameter in model.named_parameters():
        assert (name in reached) == (id(parameter) not in unused and name not in frozen), name


# -- files and auto classes ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_saving_and_loading_changes_nothing(model: Any, tmp_path: Path) -> None:
    given = inputs()
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    for kind in (AutoModelForMultimodalLM, AutoModelForCausalLM, HumanOmniForConditionalGeneration):
        loaded, info = kind.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert type(loaded) is HumanOmniForConditionalGeneration
        assert not any(info.values())
        for name, value in model.state_dict().items():
            assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)
        assert_close(loaded.eval()(**given).logits, model(**given).logits, atol=1e-4, rtol=1e-4)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    base = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert type(base) is HumanOmniModel
    assert_close(base(**given).last_hidden_state, model.model(**given).last_hidden_state, atol=1e-4, rtol=1e-4)


def test_a_configuration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    config = our_config(TINY["7B"], vision_select_layer=-1)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is HumanOmniConfig
    assert again.to_dict().keys() == config.to_dict().keys()
    for name in ("vision_config", "audio_config", "question_config", "text_config"):
        assert getattr(again, name).to_dict() == getattr(config, name).to_dict()
    for name in ("projector_type", "vision_select_layer", "gate_width", "num_frames", "video_token_id"):
        assert getattr(again, name) == getattr(config, name)
    assert (again.video_tokens, again.audio_tokens) == (12, 16)


def test_embeddings_are_tied_as_qwen2_says() -> None:
    model = HumanOmniForConditionalGeneration(our_config(TINY["7B"]))
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    table = nn.Embedding(10, 32)
    model.set_input_embeddings(table)
    assert model.model.language_model.embed_tokens is table


@torch.no_grad()
def test_half_precision_reads_float32_media(model: Any) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    given = inputs()
    assert half(**given).logits.dtype == torch.bfloat16
    written = half.generate(**given, max_new_tokens=2, do_sample=False)
    assert written.shape == (2, len(prompt()) + 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**given).logits
    exact = model(**given).logits
    assert (mixed - exact).abs().mean() < 0.1 * exact.std()
