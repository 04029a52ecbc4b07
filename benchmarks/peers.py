"""HF PEFT's methods on PyTorch layers of the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from cases import batch
from gradient_pass import torch_pass

CONFIGS: dict[str, Callable[[], Any]] = {
    "PEFT LoRA r=8": lambda: peft.LoraConfig(r=8, lora_alpha=8),
    "PEFT DoRA r=8": lambda: peft.LoraConfig(r=8, lora_alpha=8, use_dora=True),
    "PEFT PiSSA r=8": lambda: peft.LoraConfig(r=8, lora_alpha=8, init_lora_weights="pissa"),
    "PEFT VeRA r=256": lambda: peft.VeraConfig(r=256),
}

# without BOFT and HRA: one pass takes as long as 55 and 32 passes of the frozen model
FURTHER: dict[str, Callable[[], Any]] = {
    "PEFT OFT b=32": lambda: peft.OFTConfig(oft_block_size=32),
    "PEFT OFT b=32, exact": lambda: peft.OFTConfig(oft_block_size=32, use_cayley_neumann=False),
    "PEFT (IA)3": lambda: peft.IA3Config(feedforward_modules=[]),
    "PEFT MiSS r=64": lambda: peft.MissConfig(r=64),
    "PEFT PSOFT r=32": lambda: peft.PsoftConfig(r=32),
    "PEFT LoHa r=8": lambda: peft.LoHaConfig(r=8, alpha=8),
    "PEFT LoKr r=8": lambda: peft.LoKrConfig(r=8, alpha=8),
    "PEFT FourierFT 1000": lambda: peft.FourierFTConfig(n_frequency=1000),
}


def linear(m: int, n: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(m, n))


def stack() -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for _ in range(2):
        layers += [torch.nn.Linear(768, 768), torch.nn.Tanh()]
        layers += [torch.nn.Linear(768, 6144), torch.nn.ReLU(), torch.nn.Linear(6144, 768)]
    return torch.nn.Sequential(*layers)


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, int]]] = {
    "1024x1024": (lambda: linear(1024, 1024), (2048, 1024)),
    "512x4096": (lambda: linear(512, 4096), (2048, 512)),
    "4096x512": (lambda: linear(4096, 512), (2048, 4096)),
    "stack": (stack, (1024, 768)),
    "further": (stack, (1024, 768)),
}


def runs(case: str) -> dict[str, Callable[[], Any]]:
    """A pass of every method of PEFT, and of the frozen PyTorch model."""
    if case not in MODELS:
        return {}
    build, shape = MODELS[case]
    plain = build().requires_grad_(False)
    found = {"PyTorch frozen": torch_pass(plain, batch(*shape), False)[0]}
    for name, config in (FURTHER if case == "further" else CONFIGS).items():
        found[name] = torch_pass(adapted(build(), config()), batch(*shape), False)[0]
    return found


def adapted(model: torch.nn.Module, config: peft.PeftConfig) -> peft.PeftModel:
    """Adapts all linear layers of a model."""
    names = [n for n, x in model.named_modules() if isinstance(x, torch.nn.Linear)]
    config.target_modules = names
    return peft.get_peft_model(model, config)
