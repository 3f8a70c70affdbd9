"""Attention by packages that need not be there, with a made-up package that does what the real ones do."""

import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from pipeline import foreign
from pipeline.sparse import attention_rows, reference


@pytest.fixture
def installed(monkeypatch):
    """Every package is installed and attends as torch does, on [B, L, H, D]; counts its calls."""
    calls = []

    def attend(q, k, v):
        calls.append(tuple(q.shape))
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        return out, "what some versions return beside it"

    monkeypatch.setattr(foreign, "version", lambda package: "1.0")
    for name, function in (("flash_attn.cute", "flash_attn_func"), ("xformers.ops", "memory_efficient_attention")):
        module = ModuleType(name)
        setattr(module, function, attend)
        monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType(name.split(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def rows():
    return {row.name: row for row in (*attention_rows.preferred(), *attention_rows.on_request())}


def test_what_is_not_installed_says_so(monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(foreign, "version", missing)
    assert {row.name: row.absent for row in rows().values()} == {
        "flash-attn-4": "flash-attn-4 is not installed.",
        "flash-attn-3": "flash-attn-3 is not installed.",
        "flash-attn": "flash-attn is not installed.",
        "xformers": "xformers is not installed.",
    }


@pytest.mark.parametrize("lengths", [(40,), (20, 20), (30, 1, 9)])
@pytest.mark.parametrize("name", ["flash-attn-4", "xformers"])
def test_packs_become_what_the_packages_take(installed, name, lengths):
    q, k, v = torch.randn(3, 40, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = rows()[name].function(q, k, v, lengths, lengths)
    torch.testing.assert_close(found, reference.attention(q, k, v, lengths, lengths))
    assert len(installed) == (1 if len(set(lengths)) == 1 else len(lengths))


def test_full_precision_is_left_to_torch(installed):
    q, k, v = torch.randn(3, 40, 2, 16, generator=torch.Generator().manual_seed(0))
    found = rows()["xformers"].function(q, k, v, (40,), (40,))
    assert torch.equal(found, reference.attention(q, k, v, (40,), (40,))) and not installed


def test_few_tokens_are_left_to_torch(installed):
    suits = rows()["flash-attn-4"].suits
    assert suits(torch.empty(8192, 1), None, None, (8192,), (9,)) and not suits(
        torch.empty(8191, 1), 0, 0, (8191,), (9,)
    )
    assert not suits(torch.empty(8192, 1), None, None, (4096, 4096), (9, 9))
