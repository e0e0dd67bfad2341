"""LPIPS as a loss."""

import pytest
import torch
from torch.testing import assert_close
from training_inputs import quick_narrow

from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import LPIPS_BACKBONES
from ouroboros_lib.training import train
from ouroboros_lib.training.perceptual import perceptual_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_lpips_as_a_loss_or_which_file_is_missing(tmp_path, monkeypatch, rendered_folder):
    from torchvision.models import alexnet

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(InputError, match=rf"lpips=vgg: .*{LPIPS_BACKBONES['vgg']} is missing; .*or set lpips=off"):
        train("narrow", tmp_path / "run", quick_narrow(lpips="vgg"), data=rendered_folder)
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    path = tmp_path / "checkpoints" / LPIPS_BACKBONES["alex"]
    torch.save(alexnet().state_dict(), path)
    for place in ("torch.hub.load_state_dict_from_url", "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setattr(place, lambda *_, **__: torch.load(path, weights_only=True))
    distance = perceptual_loss("alex", "cpu")
    clean = torch.rand(2, 3, 64, 64, generator=seeded())
    noisy = (clean + 0.1 * torch.randn(2, 3, 64, 64, generator=seeded(1))).requires_grad_()
    distance(noisy, clean).backward()
    assert noisy.grad.abs().max() > 0 and distance(clean, clean) < 1e-6
    large = torch.rand(1, 3, 512, 512, generator=seeded())
    half = [torch.nn.functional.interpolate(t, (256, 256), mode="bilinear") for t in (large, 1 - large)]
    assert_close(distance(large, 1 - large), distance(*half))
    at_full_size = perceptual_loss("alex", "cpu", largest=512)  # as the recipe `paper` has it, and the released code
    assert abs(float(at_full_size(large, 1 - large)) - float(distance(large, 1 - large))) > 1e-3
    assert_close(at_full_size(*half), distance(*half))
