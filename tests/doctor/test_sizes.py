"""Sizes read off the meta device are those of the models that runs build."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from erv_lightning.doctor import recipes
from erv_lightning.doctor.scaling import table
from erv_lightning.doctor.sizes import PUBLISHED, sizes_of
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4)])
@pytest.mark.parametrize("freeze", [(), ("vision", "audio")])
def test_counts_are_those_of_the_policy_itself(lora: LoraSpec | None, freeze: tuple[str, ...]) -> None:
    policy = QwenOmniBackbone("tiny", lora, freeze)  # type: ignore[arg-type]
    sizes = sizes_of("tiny", lora, freeze)
    assert sizes.parameters == sum(one.numel() for one in policy.parameters())
    assert sizes.trained == sum(one.numel() for one in policy.trainable())
    assert sizes.vision.trains == (lora is None and not freeze)


def test_a_folder_is_read_from_its_config_alone(tmp_path: Path) -> None:
    QwenOmniBackbone("tiny").model.config.save_pretrained(tmp_path)
    found = dataclasses.replace(sizes_of(str(tmp_path)), name="tiny", assumed="the built-in small model")
    assert found == sizes_of("tiny")


def test_the_assumed_shapes_come_to_the_sizes_that_their_names_promise() -> None:
    # what the assumed sizes come to; a token passes 3.3 billion parameters of the last
    billions = {name: round(sizes_of(name).parameters / 1e9, 1) for name in PUBLISHED}
    assert list(billions.values()) == [8.9, 4.7, 31.7]
    large = sizes_of("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    assert (large.layers * large.layer_active + large.root) / 1e9 == pytest.approx(3.35, abs=0.05)
    assert large.ffn == 8 * 768


def test_an_unknown_model_is_named_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no config.json in 'some/model'.*tiny"):
        sizes_of("some/model")


def test_the_page_on_scaling_has_the_table_that_the_code_makes() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert table() in page
    assert "estimate, not a measurement" in page


def test_sizes_that_are_not_worked_out_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "humanomni"}')
    for pretrained in (str(tmp_path), "models/humanomni_7b"):
        with pytest.raises(ValueError, match="HumanOmni model, whose sizes are not worked out here"):
            sizes_of(pretrained)


def test_the_page_on_recipes_has_the_hours_that_the_code_computes() -> None:
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert page.split("<!-- hours:begin -->\n")[1].split("\n<!-- hours:end -->")[0] == recipes.table()


def test_the_recipes_hours_are_of_the_recipes() -> None:
    groups = {"r1_omni": 16, "erv": 4, "erv_gated": 4, "care": 4, "caemer_style": 4}
    told = {name: one for one in recipes.RECIPES for name in one.name.split(", ") if one.stage == "grpo"}
    for name, group in groups.items():
        recipe = yaml.safe_load((ROOT / "configs" / "recipes" / f"{name}.yaml").read_text())
        assert recipe["model"]["init_args"]["generations_per_prompt"] == told[name].group == group
        assert recipe["trainer"]["max_epochs"] == told[name].epochs
        assert recipe["base"].endswith(told[name].size)
    sizes = recipes.sizes("7b", "grpo")
    assert (recipes.config("7b").video_tokens, recipes.config("0.5b").video_tokens) == (1568, 392)
    assert 7.6e9 < sizes.layers * sizes.layer + 2 * sizes.vocabulary * sizes.hidden < 7.7e9  # Qwen2-7B
