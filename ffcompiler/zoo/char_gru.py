"""A character-level GRU of 256 units: it reads a text character by character, or writes one.

Reading a text of 4,096 characters is a recurrence of as many steps, each of which carries the whole state. The
memory of a trained one is long: this is a model whose loop is better left as it is, which the compiler has to find out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UsageError

WEIGHTS = Path(__file__).with_name("weights") / "char_gru.safetensors"
ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UNITS = 256
EMBEDDED = 64
STEPS = 4096


class CharGRU(nn.Module):
    """From a character and a state [B, units] to the next state, and from a state to logits of the next character."""

    def __init__(self, characters: int = len(ALPHABET), embedded: int = EMBEDDED, units: int = UNITS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedded)
        self.cell = nn.GRUCell(embedded, units)
        self.head = nn.Linear(units, characters)

    def forward(self, character: Tensor, state: Tensor) -> Tensor:
        """The state [B, units] after ``character`` [B]."""
        return cast(Tensor, self.cell(self.embedding(character), state))


def encode(text: str) -> Tensor:
    """The numbers [1, T] of the characters. Raises: `UsageError` for one that is not in `ALPHABET`."""
    unknown = sorted(set(text) - set(ALPHABET))
    if unknown:
        raise UsageError(f"the model knows no character {unknown[0]!r}; it knows {ALPHABET!r}")
    return torch.tensor([[ALPHABET.index(character) for character in text]])


def decode(characters: Tensor) -> str:
    """The text of one row of character numbers."""
    return "".join(ALPHABET[k] for k in characters.flatten().tolist())


def read(model: CharGRU, text: Tensor) -> Tensor:
    """Log-probability [B, T - 1] of each character of ``text`` [B, T] given those before it, but of the first."""
    state, states = text.new_zeros(text.shape[0], model.cell.hidden_size, dtype=model.head.weight.dtype), []
    for i in range(text.shape[1]):
        state = model(text[:, i], state)
        states.append(state)
    scores = model.head(torch.stack(states, 1)[:, :-1]).log_softmax(-1)
    return cast(Tensor, scores.gather(2, text[:, 1:, None]).squeeze(2))


@torch.no_grad()
def write(model: CharGRU, count: int, seed: int = 0, temperature: float = 1.0) -> str:
    """A text of ``count`` characters that the model draws, beginning with a new line."""
    generator = torch.Generator().manual_seed(seed)
    text, state = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, model.cell.hidden_size)
    for _ in range(count - 1):
        state = model(text[:, -1], state)
        chances = F.softmax(model.head(state) / temperature, -1)
        text = torch.cat((text, torch.multinomial(chances, 1, generator=generator)), 1)
    return decode(text)


def load() -> CharGRU:
    """The trained model that comes with the package, in float32, ready to read: eval mode, no gradients."""
    model = CharGRU()
    model.load_state_dict(load_file(WEIGHTS))  # float16 in the file
    return model.eval().requires_grad_(False)


def reader(model: CharGRU) -> Callable[[Tensor], Tensor]:
    """`read` with ``model`` in its closure."""
    return lambda text: read(model, text)


@lru_cache(maxsize=1)
def _shipped() -> CharGRU:
    return load()


def read_text(text: Tensor) -> Tensor:
    """`read` with the shipped model, which is loaded at the first call. ``text``: [B, T]."""
    return read(_shipped().to(text.device), text)


@lru_cache(maxsize=1)
def _written() -> str:
    return write(_shipped(), STEPS)


def example_inputs() -> tuple[Tensor]:
    """A text [1, 4096] of the model's own, always the same one."""
    return (encode(_written()),)


read_text.example_inputs = example_inputs  # type: ignore[attr-defined]
