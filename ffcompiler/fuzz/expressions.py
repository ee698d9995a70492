"""Random expressions: tensors of shape [batch, width] from variables, weights, numbers and draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .script import Script

UNARY = [  # do nothing but move, compare or round correctly: the same bits whatever the shape
    "{} * 0.5", "-({})", "torch.relu({})", "({}).clamp(-1, 1)", "({}).abs()", "({}).clone()", "({}).flip(1)",
    "({}).roll(1, 1)", "({}).t().contiguous().t()", "({}).unsqueeze(1).squeeze(1)", "({}).detach()",
    "({})[:, torch.arange({width}) // 2]", "({}).double().to(DTYPE)", "F.hardtanh({})", "F.pad({}, (1, 0))[:, :-1]",
    "F.leaky_relu({}, 0.25)", "torch.where(({}) > 0, 0.5, -0.25).to(DTYPE)", "torch.sqrt(({}).abs())",
    "({}).expand(2, {batch}, {width})[1]",
]  # fmt: skip
ROUGH = ["torch.round({})", "torch.sign({})", "torch.floor({})", "(({}) > 0).to(DTYPE)", "({}).sort(1).values",
         "({}).bool().to(DTYPE)", "F.one_hot(({}).argmax(1), {width}).to(DTYPE)"]  # fmt: skip
CURVED = [
    "torch.tanh({})", "torch.sigmoid({})", "torch.sin({})", "torch.exp(-({}).abs())", "F.softplus({})", "F.silu({})",
    "F.gelu({})", "torch.erf({})", "F.elu({})", "torch.log1p(({}).abs())",
]  # fmt: skip
MIXING = [
    "torch.softmax({}, 1)", "F.layer_norm({}, ({width},))", "({}).cumsum(1) / {width}", "F.normalize({}, dim=1)",
    "torch.log_softmax({}, -1)", "({0}) - ({0}).mean(1, keepdim=True)", "F.rms_norm({}, ({width},))",
    "torch.logsumexp({}, 1, keepdim=True).expand(-1, {width})", "({0}) * ({0}).amax(1, keepdim=True)",
]  # fmt: skip
BINARY = ["({}) + ({})", "({}) - ({})", "({}) * ({})", "torch.maximum({}, {})", "torch.minimum({}, {})",
          "torch.where(({0}) > ({1}), {0}, {1})", "torch.add({}, {}, alpha=2)"]  # fmt: skip
BLENDS = ["torch.lerp({}, {}, 0.3)", "torch.hypot({}, {})", "({}) / (1 + ({}).abs())", "torch.addcmul({0}, {1}, {1})"]
PRODUCTS = ["({}) @ {}", "F.linear({}, {}.t())", "torch.einsum('bi,io->bo', {}, {})", "torch.mm({}, {})",
            "(({}).unsqueeze(1) @ {}).squeeze(1)", "torch.matmul({1}.t(), ({0}).t()).t()"]  # fmt: skip
DRAWS = [
    "torch.randn({batch}, {width}, dtype=DTYPE)", "torch.rand({batch}, {width}, dtype=DTYPE)",
    "torch.rand_like({value})", "torch.randn_like({value})", "torch.bernoulli(torch.sigmoid({value}))",
    "F.dropout({value}, 0.3, True)", "torch.empty({batch}, {width}, dtype=DTYPE).uniform_(-1, 1)",
    "torch.empty_like({value}).exponential_().clamp(max=2)", "torch.normal({value}, 0.5)",
    "(torch.rand({batch}, 1, dtype=DTYPE) < 0.5).to(DTYPE).expand(-1, {width})",
    "F.one_hot(torch.multinomial(torch.softmax({value}, 1), 1)[:, 0], {width}).to(DTYPE)",
    "torch.distributions.Normal({value}, 0.5).sample()",
    "torch.distributions.Bernoulli(logits={value}).sample()",
]  # fmt: skip


@dataclass(slots=True)
class Expressions:
    """``exact``: a step among many others has the bits of one evaluated alone. ``step``: the step's number."""

    script: Script
    batch: int
    exact: bool
    draws: bool
    step: str | None = None
    variables: list[tuple[str, int]] = field(default_factory=list)

    def vector(self, width: int, depth: int) -> str:
        """An expression of shape [batch, width]."""
        if depth <= 0:
            return self.leaf(width)
        kinds: list[tuple[Callable[[int, int], str], int]] = [
            (self._one, 4), (self._two, 4), (self._parts, 1), (self._scaled, 1), (self._drawn, 2 if self.draws else 0),
        ]  # fmt: skip
        if not self.exact:
            kinds += [(self._product, 5), (self._mixed, 1)]
        return self.script.pick([kind for kind, share in kinds for _ in range(share)])(width, depth)

    def bounded(self, width: int, depth: int) -> str:
        """One whose elements are small whatever it is made from."""
        return self._fill(self.script.pick(["({}).clamp(-1, 1)"] if self.exact else CURVED[:3]), width, depth)

    def leaf(self, width: int) -> str:
        """A variable, brought to this width."""
        same = [name for name, size in self.variables if size == width]
        wider = [(name, size) for name, size in self.variables if size > width]
        if same and (not wider or self.script.some(0.8)):
            return self.script.pick(same)
        if wider:
            name, size = self.script.pick(wider)
            at = self.script.number(0, size - width)
            narrow = [f"{name}[:, {at}:{at + width}]", f"{name}.narrow(1, {at}, {width})"]
            return self.script.pick(narrow)
        if not self.variables:
            return self.script.weight(self.batch, width, scale=0.5)
        name, size = self.script.pick(self.variables)
        return f"F.pad({name}, (0, {width - size}))"

    def weight(self, rows: int, columns: int) -> str:
        gain = 0.5 if self.script.smooth else self.script.pick([0.5, 1.0, 2.0])
        return self.script.weight(rows, columns, scale=gain / rows**0.5)

    # ------------------------------------------------------------------------------------------ kinds

    def _fill(self, form: str, width: int, depth: int) -> str:
        return form.format(self.vector(width, depth - 1), width=width, batch=self.batch)

    def _one(self, width: int, depth: int) -> str:
        forms = [*UNARY, *([] if self.script.smooth else ROUGH), *([] if self.exact else CURVED * 2)]
        return self._fill(self.script.pick(forms), width, depth)

    def _mixed(self, width: int, depth: int) -> str:
        return self._fill(self.script.pick(MIXING), width, depth)

    def _two(self, width: int, depth: int) -> str:
        forms = [*BINARY, *([] if self.exact else BLENDS)]
        return self.script.pick(forms).format(self.vector(width, depth - 1), self.leaf(width))

    def _product(self, width: int, depth: int) -> str:
        inner = self.script.pick([size for _, size in self.variables] or [width])
        value = self.vector(inner, depth - 1)
        if self.script.some(0.25):
            bias = self.script.weight(width, scale=0.3)
            return f"torch.addmm({bias}, {value}, {self.weight(inner, width)})"
        if self.script.some(0.25):
            scale = 0.5 / inner**0.5
            linear = self.script.module(
                f"trained(nn.Linear({inner}, {width}), {self.script.number(0, 99)}, {scale:.3g})"
            )
            return f"{linear}({value})"
        return self.script.pick(PRODUCTS).format(value, self.weight(inner, width))

    def _parts(self, width: int, depth: int) -> str:
        if width < 2:
            return self.leaf(width)
        at = self.script.number(1, width - 1)
        parts = f"{self.vector(at, depth - 1)}, {self.vector(width - at, depth - 1)}"
        return self.script.pick([f"torch.cat([{parts}], 1)", f"torch.cat(({parts}), dim=-1)"])

    def _scaled(self, width: int, depth: int) -> str:
        value = self.vector(width, depth - 1)
        if self.step is None or self.script.some(0.4):
            return f"{value} * {self.script.pick([0.9, 0.3, -0.7])}"
        return self.script.pick(["({0}) * ({1} % 3)", "({0}) - {1} / 8", "({0}) * float({1} > 1)"]).format(
            value, self.step
        )

    def _drawn(self, width: int, depth: int) -> str:
        form = self.script.pick(DRAWS)
        return form.format(value=self.vector(width, depth - 1), width=width, batch=self.batch)
