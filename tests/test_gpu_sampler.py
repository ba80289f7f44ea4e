"""On a GPU what a recorded graph samples is what the model's parallel form says, code for code."""

import pytest
import torch

from audiossm.training.sampler import sample_all

from .kernel_checks import on_a_gpu
from .test_sampler import BACKBONES, CODES, build, expected


@on_a_gpu
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("heard", (0, 7))
def test_codes_are_those_of_the_parallel_form(backbone, heard):
    model = build(BACKBONES[backbone], classes=3).cuda()
    prompt = torch.randint(CODES, (1, heard), device="cuda") if heard else None
    chosen, label = {"temperature": 0.9, "top_p": 0.95}, torch.tensor([2, 0], device="cuda")
    found = sample_all(model, 2, 40, seed=5, prompt=prompt, label=label, **chosen)
    assert torch.equal(found, expected(model, 2, 40, prompt, label, **chosen))
