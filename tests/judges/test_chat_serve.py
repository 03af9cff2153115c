"""The chat judge against a real server, `transformers serve`, with a model that has learned to answer."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from erv_lightning.judges.chat import ChatJudge
from erv_lightning.labels import DFEW

MISSING = [name for name in ("fastapi", "openai", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"), reason=f"transformers serve needs {', '.join(MISSING)}"
)

SIGNS = {"smile": "happy", "tears": "sad", "frown": "angry", "gasp": "surprise", "sneer": "disgust", "tremble": "fear"}
TEMPLATE = (
    "{% for message in messages %}<user> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
STARTS, ENDS = (
    ("I see", "The clip shows", "There is", "One notes"),
    ("on the face", "in the voice", "all along", "here"),
)


def explanation(sign: str, start: str, end: str) -> str:
    return f"{start} a {sign} {end}."


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token."""
    judge, splitter = ChatJudge("m", "http://127.0.0.1:9/v1"), pre_tokenizers.Whitespace()
    text = " ".join(judge.prompt(explanation(sign, s, e), DFEW) for sign in SIGNS for s in STARTS for e in ENDS)
    words = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
    words += sorted({word for word, _ in splitter.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )


def teach(tokenizer: PreTrainedTokenizerFast) -> GraniteForCausalLM:
    """A tiny model that replies with the emotion of the sign in the explanation.

    It is a Granite because transformers reads Qwen's and Llama's folders with those models' own tokenizers.
    """
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = GraniteForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    judge, draw = ChatJudge("m", "http://127.0.0.1:9/v1"), random.Random(0)
    for _ in range(600):  # 100 to 200 will do
        signs = draw.choices(list(SIGNS), k=16)
        texts = [explanation(sign, draw.choice(STARTS), draw.choice(ENDS)) for sign in signs]
        prompts = [f"<user> {judge.prompt(text, DFEW)} <assistant> " for text in texts]
        replies = [f"{prompt}{SIGNS[sign]}<end>" for prompt, sign in zip(prompts, signs, strict=True)]
        batch = tokenizer(replies, return_tensors="pt", padding=True, padding_side="left")
        targets = batch["input_ids"].clone()
        targets[:, :-2] = -100  # the label and the end
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:
            return model
    raise AssertionError(f"the model has not learned its lesson: loss {loss.item():.3f}")


@dataclass(frozen=True)
class Served:
    model: str
    url: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < limit:
        try:
            with direct.open(f"{address}/health", timeout=2):
                return
        except OSError:  # not listening yet
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` with the taught model; its whole process group ends with the tests."""
    root = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    teach(tokenizer).save_pretrained(root / "judge")
    tokenizer.save_pretrained(root / "judge")
    model, port, log = str(root / "judge"), free_port(), root / "log.txt"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(root / "hub")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **offline}, start_new_session=True
        )
    try:
        wait_for(process, f"http://127.0.0.1:{port}", log)
        yield Served(model, f"http://127.0.0.1:{port}/v1")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no proxy, and the default cache in the test's own folder."""
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_a_local_chat_model_judges_explanations_and_is_asked_once(served: Served) -> None:
    texts = [explanation(sign, start, "here") for sign in SIGNS for start in STARTS[:2]]
    truth = [DFEW.id(label) for label in SIGNS.values() for _ in range(2)]
    judge = ChatJudge(served.model, served.url, name="local", concurrency=3)

    assert judge([*texts, ""], DFEW) == [*truth, -1]
    assert (judge.usage.requests, judge.usage.retries, judge.usage.outside) == (12, 0, 0)
    assert judge.usage.prompt_tokens > 12 * 30
    assert judge.usage.completion_tokens == 12 * 2  # the label and the end

    again = ChatJudge(served.model, served.url)
    assert again(texts, DFEW) == truth
    assert (again.usage.requests, again.usage.from_cache) == (0, 12)


def test_a_model_that_the_server_does_not_have_is_said_to_be_so(served: Served) -> None:
    with pytest.raises(ValueError, match=r"model other at http.*refuses.*pinned.*check model") as caught:
        ChatJudge("other", served.url)(["There is a smile here."], DFEW)
    assert "\n" not in str(caught.value)
