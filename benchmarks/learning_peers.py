"""HF PEFT's methods in the learning study: the same encoder, data, steps and rates on PyTorch."""

from __future__ import annotations

from typing import Any

import data
import numpy as np
import torch
import transformers
from learning_tasks import Task
from peers import CONFIGS, adapted

SIZE = 100  # samples of a forward computation without gradients
EPSILON = 1e-7  # of Keras's Adam


class Classifier(torch.nn.Module):
    """MiniLM with an adapter of PEFT, the mean over its tokens, and a fresh head."""

    def __init__(self, name: str, outputs: int):
        super().__init__()
        encoder = transformers.BertModel.from_pretrained(
            data.minilm_directory(), add_pooling_layer=False
        )
        self.encoder = adapted(encoder, CONFIGS[name]())
        self.head = torch.nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, ids: Any, types: Any, mask: Any) -> Any:
        found = self.encoder(input_ids=ids, token_type_ids=types, attention_mask=mask)
        weights = mask[:, :, None].float()
        return self.head((found.last_hidden_state * weights).sum(1) / weights.sum(1))

    @torch.no_grad()
    def predict(self, x: dict[str, np.ndarray], **_: Any) -> np.ndarray:
        """Returns the outputs without dropout, as the score of a task asks for them."""
        self.eval()
        starts = range(0, len(x["token_ids"]), SIZE)
        found = [self(*tokens(x, slice(start, start + SIZE))) for start in starts]
        return torch.cat(found).numpy()


def tokens(x: dict[str, np.ndarray], rows: Any) -> list[torch.Tensor]:
    """Returns the inputs of the encoder for some rows."""
    names = ("token_ids", "segment_ids", "padding_mask")
    return [torch.from_numpy(np.asarray(x[name][rows])).long() for name in names]


def optimizer(model: Classifier, rate: float, head_rate: float, steps: int) -> tuple[Any, Any]:
    """Returns Adam and a schedule: a warm-up in the first tenth, then a cosine, as in all runs."""
    adapter = [value for value in model.encoder.parameters() if value.requires_grad]
    groups = [
        {"params": adapter, "lr": rate},
        {"params": model.head.parameters(), "lr": head_rate},
    ]
    warm = max(steps // 10, 1)

    def share(step: int) -> float:
        if step < warm:
            return step / warm
        return 0.5 + 0.5 * float(np.cos(np.pi * (step - warm) / (steps - warm)))

    adam = torch.optim.Adam(groups, eps=EPSILON)
    return adam, torch.optim.lr_scheduler.LambdaLR(adam, share)


def train(task: Task, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains a method of PEFT on a task, and returns its scores and the number of its values."""
    torch.manual_seed(seed)
    rng, sets = np.random.default_rng(seed), task.sets()
    x, y = sets["train"]
    is_classes = y.dtype.kind in "iu"
    model = Classifier(name, int(y.max()) + 1 if is_classes else y.shape[1])
    loss = torch.nn.CrossEntropyLoss() if is_classes else torch.nn.MSELoss()
    targets = torch.from_numpy(np.asarray(y, "int64" if is_classes else "float32"))
    adam, schedule = optimizer(model, rate, task.head_rate or rate, task.steps)
    model.train()
    order: list[int] = []
    for _ in range(task.steps):
        order = order if len(order) >= task.batch else list(rng.permutation(len(y)))
        rows, order = np.array(order[: task.batch]), order[task.batch :]
        adam.zero_grad()
        loss(model(*tokens(x, rows)), targets[rows]).backward()
        adam.step()
        schedule.step()
    values = sum(value.numel() for value in model.parameters() if value.requires_grad)
    measured: Any = model
    scores = {part: task.measure(measured, sets[part]) for part in ("validation", "test")}
    return scores | {"values": values}
