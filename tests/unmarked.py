"""Sequential functions as people write them, in plain Python: the patterns of a census, none of them marked.

Each entry gives the function and its arguments; weights are large enough that steps matter to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Program = tuple[Callable[..., Any], tuple[Any, ...]]
T = 12


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cell(kind: type[nn.Module], *sizes: int, seed: int = 0) -> Any:
    made = kind(*sizes)
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(randn(*p.shape, seed=seed + i) * 0.8)
    return made


def masked(n: int = T, hidden: int = 32) -> Callable[[Tensor], Tensor]:
    """A small MADE with two heads."""
    degree = torch.arange(hidden) % (n - 1)
    w1 = randn(hidden, n, seed=1) * (degree[:, None] >= torch.arange(n)) * 0.6
    w2 = randn(2 * n, hidden, seed=2) * (torch.arange(n).repeat(2)[:, None] > degree) * 0.6
    return lambda x: torch.tanh(x @ w1.T) @ w2.T


# ---------------------------------------------------------------------------------------------------- arrays (A)


def in_place() -> Program:
    model = masked()

    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for i in range(T):
            mean, log_scale = model(x).chunk(2, dim=-1)
            x[:, i] = (mean + torch.tanh(log_scale).exp() * noise)[:, i]
        return x

    return sample, (randn(3, T),)


def out_of_place() -> Program:
    model = masked()

    def sample(noise: Tensor) -> Tensor:
        x = noise.clone()
        for i in range(T):
            mean, log_scale = model(x).chunk(2, dim=-1)
            new = x.clone()
            new[:, i] = mean[:, i] + torch.tanh(log_scale[:, i]).exp() * noise[:, i]
            x = new
        return torch.sigmoid(x)

    return sample, (randn(3, T),)


class Masked2d(nn.Conv2d):
    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mask = torch.ones_like(self.weight)
        h, w = mask.shape[-2:]
        mask[:, :, h // 2, w // 2 + (kind == "B") :] = 0
        mask[:, :, h // 2 + 1 :] = 0
        self.register_buffer("mask", mask)
        with torch.no_grad():
            self.weight.copy_(randn(*self.weight.shape, seed=ord(kind)))
            self.bias.copy_(randn(*self.bias.shape, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


def raster() -> Program:
    net = nn.Sequential(Masked2d("A", 1, 6, 3, padding=1), nn.ReLU(), Masked2d("B", 6, 4, 3, padding=1))

    @torch.no_grad()
    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros(2, 1, 5, 4)
        for y in range(x.shape[2]):
            for i in range(x.shape[3]):
                logits = net(x)[:, :, y, i]
                x[:, 0, y, i] = (logits + noise[:, :, y, i]).argmax(1).float() / 3
        return x

    return sample, (randn(2, 4, 5, 4),)


def permuted_order() -> Program:
    model, order = masked(), torch.arange(T).tolist()

    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for k in range(T):
            i = order[k]
            x[..., i] = model(x)[..., i] + noise[..., i]
        return x

    return sample, (randn(3, T),)


def order_in_a_tensor() -> Program:
    model, order = masked(), torch.arange(T)

    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for i in order:
            j = int(i)
            x[:, j] = model(x)[:, j] + noise[:, j]
        return x

    return sample, (randn(3, T),)


# ---------------------------------------------------------------------------------------------------- recurrences (D)


def gru() -> Program:
    step = cell(nn.GRUCell, 3, 5)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, outputs = torch.zeros(2, 5), []
        for t in range(x.shape[1]):
            h = step(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1), h

    return run, (randn(2, T, 3),)


def gru_from_nothing() -> Program:
    step = cell(nn.GRUCell, 3, 5)

    def run(x: Tensor) -> Tensor:
        h = None
        for t in range(x.shape[1]):
            h = step(x[:, t], h)
        return h

    return run, (randn(2, T, 3),)


def lstm_layers() -> Program:
    layers = nn.ModuleList([cell(nn.LSTMCell, 3, 5), cell(nn.LSTMCell, 5, 5, seed=9)])

    def run(x: Tensor) -> dict[str, Tensor]:
        states = [(torch.zeros(2, 5), torch.zeros(2, 5)) for _ in layers]
        outputs = []
        for x_t in x.unbind(1):
            for i, layer in enumerate(layers):
                states[i] = layer(x_t, states[i])
                x_t = states[i][0]
            outputs.append(x_t.unsqueeze(1))
        return {"out": torch.cat(outputs, dim=1), "c": states[-1][1]}

    return run, (randn(2, T, 3),)


def iterated_backwards() -> Program:
    u, w = randn(4, 4, seed=5) * 0.5, randn(3, 4, seed=6)

    def run(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(2, 4), []
        for t in reversed(range(len(x))):
            h = torch.tanh(x[t] @ w + h @ u)
            outputs.insert(0, h)
        return torch.stack(outputs)

    return run, (randn(T, 2, 3),)


def two_loops() -> Program:
    u, v = randn(4, 4, seed=5) * 0.5, randn(4, 4, seed=6) * 0.5

    def run(x: Tensor) -> Tensor:
        h, outputs = torch.zeros(2, 4), []
        for x_t in x:
            h = torch.tanh(x_t + h @ u)
            outputs.append(h)
        g, last = torch.zeros(2, 4), []
        for t in range(T):
            g = torch.tanh(outputs[t] - g @ v)
            last.append(g)
        return torch.stack(last)

    return run, (randn(T, 2, 4),)


def written_outputs() -> Program:
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor) -> Tensor:
        h, out = torch.zeros(2, 4), torch.empty(T, 2, 4)
        for t in range(T):
            h = torch.sin(x[t] + h @ u)
            out[t] = h * 2
        return out

    return run, (randn(T, 2, 4),)


def state_in_a_module() -> Program:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Parameter(randn(4, 4) * 0.5)
            self.h: Tensor = torch.zeros(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.h = torch.tanh(x + self.h @ self.u)
            return self.h

    net = Net()

    def run(x: Tensor) -> Tensor:
        net.h = torch.zeros(2, 4)
        return torch.stack([net(x_t) for x_t in x])

    return run, (randn(T, 2, 4),)


def in_place_state() -> Program:
    u = randn(4, 4, seed=5) * 0.4

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        total = torch.zeros(2, 4)
        for t in range(T):
            h.mul_(0.5).add_(torch.tanh(h @ u + x[t]))
            total += h
        return total

    return run, (randn(T, 2, 4),)


def skips_of_two() -> Program:
    def run(x: Tensor) -> Tensor:
        a, b = x[0], x[1]
        outputs = [a, b]
        for t in range(2, T):
            c = torch.sin(outputs[-1] + 0.5 * outputs[-2] + x[t])
            outputs.append(c)
        return torch.stack(outputs)

    return run, (randn(T, 3),)


def first_step_differs() -> Program:
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(T):
            if t > 0:
                h = h @ u
            h = torch.tanh(h + x[t])
            if t == T - 1:
                h = h * 3
        return h

    return run, (randn(T, 2, 4),)


def every_third_step() -> Program:
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(T):
            h = torch.tanh(h @ u + x[t])
            if t % 3 == 2:
                h = h - h.mean()
        return h

    return run, (randn(T, 2, 4),)


def nested_states() -> Program:
    def run(x: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = {"a": torch.zeros(3), "n": [torch.ones(3)]}
        for t in range(T):
            a = torch.sin(state["a"] + x[t])
            state = {"a": a, "n": [state["n"][0] * 0.9 + a * 0.1 * t]}
        return state

    return run, (randn(T, 3),)


# ------------------------------------------------------------------------------------------ others (A', C, E, F)


def repeated_map() -> Program:
    model = masked()

    def inverse(z: Tensor) -> Tensor:
        x = torch.zeros_like(z)
        for _ in range(T):
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = mean + torch.tanh(log_scale).exp() * z
        return x

    return inverse, (randn(3, T),)


def own_output_fed_back() -> Program:
    step, head, table = cell(nn.GRUCell, 4, 8), randn(8, 5, seed=7), randn(5, 4, seed=8)

    def generate(start: Tensor) -> Tensor:
        token, h, tokens = start, torch.zeros(2, 8), []
        for _ in range(T):
            h = step(table[token], h)
            token = (h @ head).argmax(-1)
            tokens.append(token)
        return torch.stack(tokens, dim=1)

    return generate, (torch.tensor([0, 3]),)


def euler() -> Program:
    w = randn(4, 4, seed=5)

    def solve(x: Tensor) -> Tensor:
        for k in range(T):
            time = k / T
            x = x + (torch.tanh(x @ w) - time) * 0.1
        return x

    return solve, (randn(3, 4),)


def layers_of_a_list() -> Program:
    layers = nn.ModuleList([nn.Sequential(cell(nn.Linear, 6, 6, seed=s), nn.Tanh()) for s in range(6)])

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = x + layer(x)
        return x

    return run, (randn(3, 6),)


def loop_in_a_loop() -> Program:
    u = randn(4, 4, seed=5) * 0.4

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(T):
            z = x[t]
            for _ in range(3):
                z = torch.sin(z @ u + h)
            h = z
        return h

    return run, (randn(T, 2, 4),)


def zipped_and_counted() -> Program:
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor, y: Tensor) -> Tensor:
        h, outputs = torch.zeros(2, 4), []
        for t, (a, b) in enumerate(zip(x.split(1), y.unbind(0), strict=True)):
            h = torch.tanh(a[0] + h @ u - b) * (1 + 0.01 * t)
            outputs += [h]
        return torch.cat(outputs, dim=-1)

    return run, (randn(T, 2, 4), randn(T, 2, 4, seed=1))


def ring_buffer() -> Program:
    w = randn(3, 4, seed=5) * 0.5

    def run(x: Tensor) -> Tensor:
        buffer, outputs = torch.zeros(2, 3, 4), []
        for x_t in x:
            buffer = torch.cat([buffer[:, 1:], x_t.unsqueeze(1)], dim=1)
            y = (buffer * w).sum(1)
            outputs.append(torch.sin(y))
        return torch.stack(outputs)

    return run, (randn(T, 2, 4),)


def sampled_by_a_distribution() -> Program:
    step, head, table = cell(nn.GRUCell, 4, 8), randn(8, 5, seed=7), randn(5, 4, seed=8)

    def generate(start: Tensor) -> tuple[Tensor, Tensor]:
        token, h, tokens, log_p = start, torch.zeros(2, 8), [], torch.zeros(2)
        for _ in range(T):
            h = step(table[token], h)
            choice = torch.distributions.Categorical(logits=h @ head)
            token = choice.sample()
            log_p = log_p + choice.log_prob(token)
            tokens.append(token)
        return torch.stack(tokens, dim=1), log_p

    return generate, (torch.tensor([0, 3]),)


def binary_image() -> Program:
    model = masked()

    def sample(x: Tensor) -> Tensor:
        x = torch.zeros_like(x)
        for i in range(T):
            p = torch.sigmoid(model(x)[:, :T])
            x[:, i] = torch.bernoulli(p[:, i])
        return x

    return sample, (randn(3, T),)


def two_cells_in_turn() -> Program:
    u, v = randn(4, 4, seed=5) * 0.5, randn(4, 4, seed=6) * 0.5

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = torch.zeros(2, 4), torch.ones(2, 4)
        for t in range(T):
            a, b = torch.tanh(x[t] + b @ u), torch.sin(a @ v)
        return a, b

    return run, (randn(T, 2, 4),)


def last_outputs_only() -> Program:
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor) -> Tensor:
        h, outputs = torch.zeros(2, 4), []
        for t in range(T):
            h = torch.tanh(x[t] + h @ u)
            outputs.append(h.sum(-1))
        return outputs[-1] + outputs[3]

    return run, (randn(T, 2, 4),)


def adjoint() -> Program:
    """Back-propagation through time, by hand."""
    u = randn(4, 4, seed=5) * 0.5

    def run(x: Tensor, g: Tensor) -> Tensor:
        h, states = torch.zeros(2, 4), []
        for t in range(T):
            h = torch.tanh(x[t] + h @ u)
            states.append(h)
        a = torch.zeros(2, 4)
        for t in range(T - 1, -1, -1):
            a = (a @ u.T + g[t]) * (1 - states[t] ** 2)
        return a

    return run, (randn(T, 2, 4), randn(T, 2, 4, seed=1))


ALL: dict[str, Callable[[], Program]] = {
    f.__name__: f
    for f in (
        in_place, out_of_place, raster, permuted_order, order_in_a_tensor, gru, gru_from_nothing, lstm_layers,
        iterated_backwards, two_loops, written_outputs, state_in_a_module, in_place_state, skips_of_two,
        first_step_differs, every_third_step, nested_states, repeated_map, own_output_fed_back, euler,
        layers_of_a_list, loop_in_a_loop, zipped_and_counted, ring_buffer, sampled_by_a_distribution, binary_image,
        two_cells_in_turn, last_outputs_only, adjoint,
    )
}  # fmt: skip
