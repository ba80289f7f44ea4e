"""A frame's spectrum in two small products is the one of a large one, and so is its audio."""

import pytest
import torch

from audiossm.export.short_time import ShortTime
from audiossm.tasks.spectrum import Analysis, Synthesis


@pytest.mark.parametrize(
    ("window", "hop"), [(512, 160), (512, 128), (256, 128), (400, 100), (1536, 480), (96, 30), (34, 10), (30, 15)]
)
def test_small_products_are_the_large_ones(window, hop):
    """Windows of all kinds of factors, whose frames begin on a row of the second matrix or within one."""
    torch.manual_seed(0)
    small, analysis, synthesis = ShortTime(window, hop), Analysis(window, hop), Synthesis(window, hop)
    heard = torch.randn(3, window)
    spectrum, gains = analysis.spectra(heard), torch.randn(3, 2, window // 2 + 1)
    place = small.frequency
    got = small.spectrum(heard)
    torch.testing.assert_close(got.squeeze(1), spectrum[..., place], rtol=0, atol=1e-5)
    assert int(small.once.sum()) == window // 2 + 1 and int(small.stands_for.sum()) == window
    product = torch.view_as_complex(spectrum.mT.contiguous()) * torch.view_as_complex(gains.mT.contiguous())
    want = torch.cat((product.real, product.imag), 1) @ synthesis.matrix
    audio = small.audio(got, (gains[..., place] * small.stands_for).unsqueeze(2))
    torch.testing.assert_close(audio, want, rtol=0, atol=1e-5)
