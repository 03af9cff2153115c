"""The doctor's memory estimate beside what training steps of the small policy take.

    python -m benchmarks.memory

Each case trains two steps in a process of its own, twice. Under torch's profiler, started before the policy is built,
every byte that torch's CPU allocator hands out or takes back is an event: the largest running sum is the peak, the
counterpart of `torch.cuda.max_memory_allocated`, exact and without the interpreter. Without the profiler, the growth of
the resident set (VmHWM, with malloc told to give back what is freed) is the witness: it also has what libraries keep.
Results: benchmarks/results/memory.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from benchmarks import our_step
from benchmarks.omni_step import Task, make_batch
from erv_lightning.data.sample import Sample
from erv_lightning.doctor.memory import Plan, Shape, estimate
from erv_lightning.doctor.sizes import Sizes, sizes_of
from erv_lightning.labels import DFEW
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.tiny import tiny_policy
from erv_lightning.modules import GRPOModule, SFTModule
from erv_lightning.rl.stopwatch import Stopwatch, peak_memory_gb

RESULTS = Path(__file__).parent / "results"
MB = 2**20
STEPS = 2  # the second has the optimiser's moments from its beginning
QUIET_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Case:
    """A configuration of the small policy.

    Attributes:
        name: what it is called in the table.
        stage: ``sft`` or ``grpo``.
        prompts: in a step; micro: of them in memory at a time during the update, 0 for all.
        group: completions a prompt; new_tokens: of each.
        width, layers: of the decoder; its MLP is three times as wide.
        lora, checkpointing: adapters of rank 16; recompute activations.
        frames, size, seconds: of a clip.
    """

    name: str
    stage: str
    prompts: int
    group: int
    new_tokens: int
    micro: int = 0
    width: int = 128
    layers: int = 4
    lora: bool = False
    checkpointing: bool = False
    frames: int = 4
    size: int = 56
    seconds: float = 1.0


CASES = (
    Case("SFT, 16 samples", "sft", 16, 1, 80),
    Case("GRPO, G 8, 8 prompts at a time", "grpo", 8, 8, 80),
    Case("GRPO, LoRA, checkpointing, 2 at a time", "grpo", 8, 8, 80, 2, 512, 8, True, True),
    Case("GRPO, width 512, 8 layers, long prompt", "grpo", 4, 8, 64, 2, 512, 8, frames=8, size=168, seconds=5.0),
)


# -- one case -----------------------------------------------------------------------------------------------------


def write_policy(case: Case, folder: Path) -> None:
    """The built-in policy of the case's width, with a processor that keeps its pictures and sound, as a folder."""
    model, processor = tiny_policy()
    config = model.config.to_dict()
    config["text_config"] |= {"hidden_size": case.width, "intermediate_size": 3 * case.width}
    config["text_config"] |= {"num_hidden_layers": case.layers, "layer_types": None}
    head = case.width // config["text_config"]["num_attention_heads"]
    config["text_config"]["rope_parameters"]["mrope_section"] = [head // 2 - 2 * (head // 6), head // 6, head // 6]
    config["vision_config"]["out_hidden_size"] = config["audio_config"]["output_dim"] = case.width
    processor.video_processor.size = {"shortest_edge": case.size**2, "longest_edge": case.size**2}
    mel = config["audio_config"]["num_mel_bins"]
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=mel, chunk_length=30)
    Qwen2_5OmniThinkerForConditionalGeneration(type(model.config)(**config)).save_pretrained(folder)
    processor.save_pretrained(folder)


def read_policy(case: Case, folder: Path) -> QwenOmniBackbone:
    """The policy as a run reads it, with no token that ends a completion early."""
    lora = LoraSpec() if case.lora else None
    freeze: Sequence[Any] = ("vision", "audio") if case.stage == "grpo" else ()
    policy = QwenOmniBackbone(str(folder), lora, freeze, gradient_checkpointing=case.checkpointing)
    for parameter in policy.parameters():  # out of the mapped file, where no allocator sees it
        parameter.data = parameter.data.clone()
    if case.stage == "grpo":
        policy.tokenizer.eos_token = policy.tokenizer.pad_token
    return policy


def prompts_of(case: Case, policy: QwenOmniBackbone) -> PromptBatch:
    """The case's prompts, of clips of noise."""
    task = Task(prompts=case.prompts, frames=case.frames, size=case.size, seconds=case.seconds)
    return make_batch(policy, task)


class _Answered(our_step.SamePrompts):
    """The same prompts, each with a response of so many tokens to learn."""

    def __init__(self, batch: PromptBatch, explanation: str) -> None:
        super().__init__(batch)
        self.batch.samples[:] = [
            Sample(id=name, dataset="x", clip="", question="", label_space=DFEW.name, label="happy", split="train",
                   explanation=explanation) for name in batch.ids
        ]  # fmt: skip


def explanation_of(policy: QwenOmniBackbone, tokens: int) -> str:
    """Words that make a response of so many tokens."""
    around = len(policy.tokenize("<think></think>\n<answer>happy</answer>")) + 1
    text = "x"
    while len(policy.tokenize(text)) < tokens - around:
        text += "x" if len(policy.tokenize(text + "x")) > len(policy.tokenize(text)) else "q"
    return text


class _Phases(Stopwatch):
    """Marks the parts of a step in the profile."""

    def begin(self, name: str) -> None:
        self._mark = record_function(f"phase:{name}")
        self._mark.__enter__()  # type: ignore[no-untyped-call]
        super().begin(name)

    def end(self, name: str) -> None:
        super().end(name)
        self._mark.__exit__(None, None, None)


class _Marked(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, GRPOModule):
            pl_module.clock = _Phases(pl_module.device)


def train(case: Case, folder: Path) -> int:
    """Two steps; returns the tokens of a prompt."""
    torch.manual_seed(0)
    policy = read_policy(case, folder)
    batch = prompts_of(case, policy)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[_Marked()],
        gradient_clip_val=1.0 if case.stage == "sft" else None,
    )
    if case.stage == "sft":
        data: Any = _Answered(batch, explanation_of(policy, case.new_tokens))
        module: Any = SFTModule(lambda: policy, our_step.NoJudge())
    else:
        shape = (case.group, case.new_tokens, "share_of_vowels")
        steps = our_step.OurSteps(policy, batch, *shape, micro_batch_prompts=case.micro or None, beta=0.04)
        data, module = steps._data, steps.module
    trainer.fit(module, data)
    return int(batch.input_ids.shape[1])


def peaks(events: Sequence[Any]) -> dict[str, float]:
    """The largest running sum of the allocator's events, over all and within each phase, in MiB."""
    spans = [
        (one.start_ns(), one.start_ns() + one.duration_ns(), one.name().removeprefix("phase:"))
        for one in events
        if one.name().startswith("phase:")
    ]
    found: defaultdict[str, float] = defaultdict(float)
    live = 0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        live += event.nbytes()
        for name in ("all", *(name for start, end, name in spans if start <= event.start_ns() < end)):
            found[name] = max(found[name], live / MB)
    return dict(found)


def run_case(case: Case, profiled: bool) -> dict[str, Any]:
    """Trains in this process."""
    with TemporaryDirectory() as name:
        write_policy(case, Path(name))
        before = _resident_gb()
        watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if profiled else nullcontext()
        with watch as seen:
            prompt = train(case, Path(name))
    if profiled:
        return {"prompt": prompt, "peaks_mb": peaks(seen.profiler.kineto_results.events())}  # type: ignore[union-attr]
    return {"resident_mb": 1024 * (peak_memory_gb(torch.device("cpu")) - before)}


def _resident_gb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 2**20


# -- all of them --------------------------------------------------------------------------------------------------


def measure(case: Case, profiled: bool = True) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(asdict(case))]
    command += ["--profiled"] if profiled else []
    out = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET_MALLOC)
    lines = [line for line in out.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{case.name}: {out.stderr}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def sizes_for(case: Case) -> Sizes:
    """Of the case's policy, from its config."""
    with TemporaryDirectory() as name:
        write_policy(case, Path(name))
        freeze = ("vision", "audio") if case.stage == "grpo" else ()
        return sizes_of(name, LoraSpec() if case.lora else None, freeze)


def estimate_of(case: Case, prompt: int) -> dict[str, float]:
    """What the doctor says about the case, in MiB, by phase."""
    sizes = sizes_for(case)
    media = clip_media(case)
    shape = Shape(case.prompts, case.group, prompt, case.new_tokens, case.micro or case.prompts, *media)
    plan = Plan(stage=case.stage, checkpointing=case.checkpointing, reference=case.stage == "grpo" and not case.lora)
    found = estimate(sizes, shape, plan)
    return {phase: value / MB for phase, value in found.phases.items()} | {"all": found.peak / MB}


def clip_media(case: Case) -> tuple[int, int]:
    """Patches and spectrum frames of a clip."""
    side = case.size // 28 * 2
    return case.frames // 2 * side**2, round(100 * case.seconds)


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# Memory: the doctor's estimate beside the measured peak",
        "",
        f"`{result['command']}`, {result['machine']}.",
        "",
        "Two training steps of the small policy on the CPU, float32. Measured: largest running sum of what torch's CPU",
        "allocator hands out, from the profiler's memory events, started before the policy is built. Resident: how",
        "much VmHWM grew in an unprofiled process, the witness; it also has what libraries keep for themselves.",
        "",
        "| configuration | trained / all parameters | prompt | estimate, MiB | measured | ratio | resident |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["cases"]:
        lines.append(
            f"| {row['case']['name']} | {row['trained'] / 1e6:.1f} M / {row['parameters'] / 1e6:.1f} M "
            f"| {row['prompt']} | {row['estimate_mb']['all']:.0f} | {row['peaks_mb']['all']:.0f} | {row['ratio']:.2f} "
            f"| {row['resident_mb']:.0f} |"
        )
    lines += ["| Qwen2.5-Omni-3B, LoRA, one GPU | | | | not measured | | |"]
    lines += ["| Qwen2.5-Omni-7B, LoRA, one GPU | | | | not measured | | |", ""]
    lines += ["Peak of each phase, estimate / measured, MiB:", "", "| configuration | generate | reference | update |"]
    lines += ["|---|---|---|---|"]
    for row in result["cases"]:
        said, seen = row["estimate_mb"], row["peaks_mb"]
        phases = ("generate", "reference", "update")
        cells = [f"{said[name]:.0f} / {seen[name]:.0f}" if name in seen else "–" for name in phases]
        lines.append(f"| {row['case']['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=main.__doc__)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--profiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.case:
        print(json.dumps(run_case(Case(**arguments.case), arguments.profiled)), flush=True)
        return
    rows = []
    for case in CASES:
        rows.append({"case": asdict(case), **measure(case), **measure(case, profiled=False)})
    result = {
        "command": "python -m benchmarks.memory",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "cases": rows,
    }
    write(result)


def write(result: dict[str, Any]) -> None:
    """Puts the estimates beside what was measured, and writes both files."""
    for row in result["cases"]:
        case = Case(**row["case"])
        row["estimate_mb"] = estimate_of(case, row["prompt"])
        row["ratio"] = row["estimate_mb"]["all"] / row["peaks_mb"]["all"]
        sizes = sizes_for(case)
        row["parameters"], row["trained"] = sizes.parameters, sizes.trained
    (RESULTS / "memory.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "memory.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
