"""A packed row against a loop over its tokens."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.packing import Layout, PackedRow, Span, fed, make_layout, pack, pack_prompts

AXES, WIDTH, VOCABULARY = 3, 5, 50

# Per prompt its length and those of its completions; some completions are empty, some prompts have none.
Lengths = list[tuple[int, list[int]]]
LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=4)
MULTIPLES = st.sampled_from([1, 2, 8])


def layout_of(lengths: Lengths, multiple: int) -> Layout:
    return make_layout([prompt for prompt, _ in lengths], [group for _, group in lengths], multiple)


def walk(lengths: Lengths) -> list[tuple[int, int, int]]:
    """Prompt, completion (0: the prompt itself) and place within it of each token of the row, filler left out."""
    tokens = []
    for number, (prompt, group) in enumerate(lengths):
        tokens += [(number, 0, place) for place in range(prompt)]
        for which, length in enumerate(group, start=1):
            tokens += [(number, which, place) for place in range(length)]
    return tokens


# -- the layout ---------------------------------------------------------------------------------------------------


def test_a_row_by_hand() -> None:
    layout = make_layout([3, 2], [[2, 0], [1, 3]], multiple=4)
    assert layout.prompts == (Span(0, 3), Span(5, 7))
    assert layout.completions == ((Span(3, 5), Span(5, 5)), (Span(7, 8), Span(8, 11)))
    assert layout.length == 12
    prompt, completion = layout.owners
    assert prompt.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, -12]
    assert completion.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 2, 2, 2, 0]
    seen = ["".join(".x"[int(sees)] for sees in row) for row in layout.mask().tolist()]
    assert seen == [
        "x...........",
        "xx..........",
        "xxx.........",
        "xxxx........",
        "xxxxx.......",
        ".....x......",
        ".....xx.....",
        ".....xxx....",
        ".....xx.x...",
        ".....xx.xx..",
        ".....xx.xxx.",
        "...........x",
    ]


@settings(max_examples=100, deadline=None)
@given(LENGTHS, MULTIPLES)
def test_spans_follow_each_other_without_a_gap_and_the_row_is_a_multiple(lengths: Lengths, multiple: int) -> None:
    layout = layout_of(lengths, multiple)
    spans = [
        span for prompt, group in zip(layout.prompts, layout.completions, strict=True) for span in (prompt, *group)
    ]
    assert [len(span) for span in spans] == [length for prompt, group in lengths for length in (prompt, *group)]
    assert spans[0].start == 0
    assert all(one.stop == after.start for one, after in pairwise(spans))
    assert layout.length % multiple == 0
    assert spans[-1].stop <= layout.length < spans[-1].stop + multiple


@settings(max_examples=100, deadline=None)
@given(LENGTHS, MULTIPLES)
def test_each_token_belongs_to_its_prompt_and_completion_and_filler_to_nobody(lengths: Lengths, multiple: int) -> None:
    layout = layout_of(lengths, multiple)
    prompt, completion = layout.owners
    tokens = walk(lengths)
    assert list(zip(prompt.tolist(), completion.tolist(), strict=True))[: len(tokens)] == [t[:2] for t in tokens]
    filler = prompt[len(tokens) :].tolist()
    assert all(owner < 0 for owner in filler)
    assert len(set(filler)) == len(filler) == layout.length - len(tokens)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, MULTIPLES)
def test_a_token_sees_its_prompt_and_its_own_completion_up_to_itself(lengths: Lengths, multiple: int) -> None:
    layout = layout_of(lengths, multiple)
    tokens, mask = walk(lengths), layout.mask().tolist()
    for query in range(layout.length):
        for key in range(layout.length):
            sees = query == key
            if query < len(tokens) and key < len(tokens):
                (prompt, completion, place), (other, part, before) = tokens[query], tokens[key]
                upto = before <= place if part == completion else part == 0
                sees = prompt == other and upto
            assert mask[query][key] == sees


# -- the row ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Given:
    """What goes into a row. All embeddings differ, and what stands on padding is far from everything else."""

    lengths: Lengths
    batch: PromptBatch
    prompt_embeds: Tensor  # (P, T, WIDTH)
    table: Tensor  # (VOCABULARY, WIDTH)
    token_ids: Tensor  # (N, C)
    mask: Tensor

    def pack(self, multiple: int = 1) -> PackedRow:
        embeds = self.table[fed(self.token_ids, self.mask)]
        lengths = self.mask.sum(1).tolist()
        return pack(self.prompt_embeds, self.batch, self.token_ids, self.mask, embeds, lengths, multiple)

    @property
    def in_the_row(self) -> Lengths:
        """The lengths of what is packed: of a completion all but its last token."""
        return [(prompt, [max(0, length - 1) for length in group]) for prompt, group in self.lengths]


def made(lengths: Lengths, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt for prompt, _ in lengths]
    completions = [length for _, group in lengths for length in group]
    width, columns = max(prompts), max([*completions, 1])
    real = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    shape = (AXES, len(prompts), width)
    positions = torch.randint(0, 30, shape, generator=generator).masked_fill(~real, 1000)
    batch = PromptBatch([], torch.zeros_like(real).long(), real.long(), positions)
    mask = torch.arange(columns) < torch.tensor(completions)[:, None]
    ids = torch.randint(0, VOCABULARY, mask.shape, generator=generator)
    embeds = torch.randn(len(prompts), width, WIDTH, generator=generator).masked_fill(~real[..., None], 1e6)
    return Given(lengths, batch, embeds, torch.randn(VOCABULARY, WIDTH, generator=generator), ids, mask)


@st.composite
def rows(draw: st.DrawFn) -> Given:
    """Groups of one size, as a rollout gives them; at least one completion has a token."""
    prompts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    size = draw(st.integers(1, 4))
    group = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    groups = [draw(group) for _ in prompts]
    groups[-1][-1] = max(1, groups[-1][-1])
    return made(list(zip(prompts, groups, strict=True)), draw(st.integers(0, 99)))


@settings(max_examples=60, deadline=None)
@given(rows(), MULTIPLES)
def test_every_token_stands_where_the_layout_says(given_row: Given, multiple: int) -> None:
    row = given_row.pack(multiple)
    assert row.layout == layout_of(given_row.in_the_row, multiple)
    assert row.embeds.shape == (1, row.layout.length, WIDTH)
    group = len(given_row.lengths[0][1])
    for at, (prompt, completion, place) in enumerate(walk(given_row.in_the_row)):
        if completion == 0:
            padding = given_row.prompt_embeds.shape[1] - given_row.lengths[prompt][0]
            expected = given_row.prompt_embeds[prompt, padding + place]
        else:
            expected = given_row.table[given_row.token_ids[prompt * group + completion - 1, place]]
        assert torch.equal(row.embeds[0, at], expected)


@settings(max_examples=60, deadline=None)
@given(rows(), MULTIPLES)
def test_each_completions_positions_go_on_where_its_prompts_end(given_row: Given, multiple: int) -> None:
    row = given_row.pack(multiple)
    assert row.position_ids.shape == (AXES, 1, row.layout.length)
    positions = given_row.batch.position_ids
    for at, (prompt, completion, place) in enumerate(walk(given_row.in_the_row)):
        padding = given_row.prompt_embeds.shape[1] - given_row.lengths[prompt][0]
        for axis in range(AXES):
            in_prompt, last = positions[axis, prompt, padding:], positions[:, prompt, padding:].max()
            expected = last + 1 + place if completion else in_prompt[place]
            assert int(row.position_ids[axis, 0, at]) == int(expected)


@settings(max_examples=60, deadline=None)
@given(rows(), MULTIPLES)
def test_each_token_is_predicted_by_the_state_of_the_one_before_it(given_row: Given, multiple: int) -> None:
    row = given_row.pack(multiple)
    where = {token: at for at, token in enumerate(walk(given_row.in_the_row))}
    group, columns = len(given_row.lengths[0][1]), given_row.token_ids.shape[1]
    expected = []
    for prompt, (length, completions) in enumerate(given_row.lengths):
        for which, tokens in enumerate(completions):
            for step in range(tokens):
                before = (prompt, which + 1, step - 1) if step else (prompt, 0, length - 1)
                n = prompt * group + which
                expected.append((where[before], int(given_row.token_ids[n, step]), n * columns + step))
    said = given_row.token_ids.flatten()[row.place]
    assert list(zip(*(x.tolist() for x in (row.states, said, row.place)), strict=True)) == expected


def test_completion_embeddings_take_the_prompts_type() -> None:
    given_row = made([(2, [3])])
    given_row.table = given_row.table.double()
    assert given_row.pack().embeds.dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(rows())
def test_all_but_the_last_token_of_each_completion_are_fed(given_row: Given) -> None:
    expected = []
    for ids, mask in zip(given_row.token_ids.tolist(), given_row.mask.tolist(), strict=True):
        expected += ids[: max(0, sum(mask) - 1)]
    assert fed(given_row.token_ids, given_row.mask).tolist() == expected


# -- prompts alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("prompts", [[4], [3, 3, 3], [2, 6, 1]])
def test_prompts_alone_lose_their_padding(prompts: list[int], multiple: int) -> None:
    given_row = made([(length, []) for length in prompts])
    embeds, positions, layout = pack_prompts(given_row.prompt_embeds, given_row.batch, multiple)
    assert layout == make_layout(prompts, [[] for _ in prompts], multiple)
    assert embeds.shape == (1, layout.length, WIDTH)
    assert positions.shape == (AXES, 1, layout.length)
    for at, (prompt, _, place) in enumerate(walk(given_row.lengths)):
        column = max(prompts) - prompts[prompt] + place
        assert torch.equal(embeds[0, at], given_row.prompt_embeds[prompt, column])
        assert torch.equal(positions[:, 0, at], given_row.batch.position_ids[:, prompt, column])
