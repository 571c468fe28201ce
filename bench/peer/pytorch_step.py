"""PyTorch's side of the comparison: the same distillation step as molt-step.ts, in the strongest form we know for a CPU.

torch.compile on the teacher's forward and on the student's forward with its loss; the convolution as four shifted
products, which the compiler fuses (nn.Conv1d is slower in fp32); the scan in chunks of matrix products; scaled dot
product attention; frozen weights shared by both models; the fused AdamW. The runner tunes glibc's allocator through the
environment, because large temporaries otherwise cost page faults in every step.

The functions are those of models/transformer.ts and models/mamba2.ts; the runner checks that losses and norms agree.

In bf16 all weights are bf16, the trained ones and their optimiser state too, which is what MambaInLlama's stepwise
trainer does and the fastest that PyTorch has; step sizes, decays, norm statistics and the loss are float32.

    python pytorch_step.py DIRECTORY THREADS PRECISION SHAPE     SHAPE: JSON, see run.ts; protocol: protocol.ts
"""

import json
import sys
import time

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

directory, threads, precision, shape = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
torch.set_num_threads(threads)

HIDDEN, HEADS, KV_HEADS = shape["hidden"], shape["heads"], shape["kvHeads"]
HEAD_DIM = HIDDEN // HEADS
STATE = HEAD_DIM + 1  # one more: the ones channel
CHUNK = 64
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
SCALARS = ("dtBias", "aLog", "d")  # float32 in both precisions


class RmsNorm(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + shape["rmsNormEps"])).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, weights, prefix):
        super().__init__()
        self.query, self.key, self.value, self.output = (
            weights[f"{prefix}{name}.weight"] for name in ("query", "key", "value", "output")
        )

    def forward(self, u, rotation):
        batch, steps, _ = u.shape

        def heads(weight, count):
            return F.linear(u, weight).view(batch, steps, count, HEAD_DIM).transpose(1, 2)

        query = rotate(heads(self.query, HEADS), rotation)
        key = rotate(heads(self.key, KV_HEADS), rotation)
        value = heads(self.value, KV_HEADS)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=HEADS != KV_HEADS)
        return F.linear(mixed.transpose(1, 2).reshape(batch, steps, HIDDEN), self.output)


def rotate(x, rotation):
    cosine, sine = rotation
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class Mamba2(nn.Module):
    """No norm after the scan, x, B and C of their own for every head, a nearly linear activation."""

    NAMES = ("inProj", "convWeight", "convBias", "dtBias", "aLog", "d", "gain", "outProj")

    def __init__(self, weights, prefix):
        super().__init__()
        for name in self.NAMES:
            setattr(self, name, nn.Parameter(weights[f"{prefix}{name}"]))

    def forward(self, u, rotation):
        batch, steps, _ = u.shape
        width = HEADS * STATE
        z, raw, e = F.linear(u, self.inProj).split((HIDDEN, HIDDEN + 2 * width, HEADS), -1)

        padded = F.pad(raw, (0, 0, 3, 0))
        mixed = self.convBias
        for tap in range(4):
            mixed = mixed + padded[:, tap : tap + steps] * self.convWeight[:, tap]
        scale = shape["activationScale"]
        mixed = F.silu(scale * mixed) * (2 / scale)

        x, b, c = mixed.split((HIDDEN, width, width), -1)
        y = scan(
            x.view(batch, steps, HEADS, HEAD_DIM),
            F.softplus(e.float() + self.dtBias),
            -self.aLog.exp(),
            b.view(batch, steps, HEADS, STATE),
            c.view(batch, steps, HEADS, STATE),
            self.d,
        )
        return F.linear(self.gain * y.reshape(batch, steps, HIDDEN) * F.silu(z), self.outProj)


def scan(x, dt, a, b, c, d):
    """State space duality: inside a chunk a masked matrix product, between chunks a state [state, head_dim].

    The decay from s to t is exp(sum of dt·a over (s, t]), formed from one running sum a chunk.
    """
    batch, steps, heads, _ = x.shape
    chunks = steps // CHUNK

    def by_chunk(t):  # [batch, heads, chunks, CHUNK, ...]
        return t.unflatten(1, (chunks, CHUNK)).movedim(3, 1)

    x, dt, b, c = by_chunk(x), by_chunk(dt), by_chunk(b), by_chunk(c)
    total = torch.cumsum(dt * a.view(heads, 1, 1), -1)
    past = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~past, float("-inf")).exp().to(x.dtype)
    stepped = x * dt.unsqueeze(-1).to(x.dtype)
    inside = (c @ b.transpose(-1, -2) * decay) @ stepped

    end = total[..., -1:]
    written = (b * (end - total).exp().unsqueeze(-1).to(x.dtype)).transpose(-1, -2) @ stepped
    kept = end.exp().unsqueeze(-1).to(x.dtype)
    state = torch.zeros_like(written[:, :, 0])
    entering = []
    for chunk in range(chunks):
        entering.append(state)
        state = state * kept[:, :, chunk] + written[:, :, chunk]
    carried = (c * total.exp().unsqueeze(-1).to(x.dtype)) @ torch.stack(entering, 2)
    y = inside + carried + x * d.view(heads, 1, 1, 1).to(x.dtype)
    return y.movedim(1, 3).flatten(1, 2)


class Layer(nn.Module):
    def __init__(self, weights, index, mixer):
        super().__init__()
        prefix = f"layers.{index}."
        self.input_norm = RmsNorm(weights[f"{prefix}inputNorm.weight"])
        self.post_norm = RmsNorm(weights[f"{prefix}postNorm.weight"])
        self.mixer = mixer
        self.gate, self.up, self.down = (weights[f"{prefix}mlp.{name}.weight"] for name in ("gate", "up", "down"))

    def forward(self, x, rotation):
        x = x + self.mixer(self.input_norm(x), rotation)
        u = self.post_norm(x)
        return x + F.linear(F.silu(F.linear(u, self.gate)) * F.linear(u, self.up), self.down)


class Network(nn.Module):
    """From ids to logits. Tensors of `weights` are shared with every other network made from them."""

    def __init__(self, weights, mixers):
        super().__init__()
        self.embed = weights["embed.weight"]
        self.layers = nn.ModuleList(
            Layer(
                weights,
                index,
                Mamba2(mixers, f"layers.{index}.mamba.")
                if f"layers.{index}.mamba.inProj" in mixers
                else Attention(weights, f"layers.{index}.attention."),
            )
            for index in range(shape["layers"])
        )
        self.final_norm = RmsNorm(weights["finalNorm.weight"])

    def forward(self, ids, rotation):
        x = F.embedding(ids, self.embed)
        for layer in self.layers:
            x = layer(x, rotation)
        return F.linear(self.final_norm(x), self.embed)


def rotation_table():
    exponents = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM
    angles = torch.arange(shape["time"], dtype=torch.float64)[:, None] * shape["ropeTheta"] ** -exponents
    return angles.cos().to(DTYPE), angles.sin().to(DTYPE)


def load(name):
    tensors = load_file(f"{directory}/{name}.safetensors")
    return {key: value if key.rsplit(".", 1)[-1] in SCALARS else value.to(DTYPE) for key, value in tensors.items()}


weights, mixers = load("teacher"), load("mixers")
teacher, student = Network(weights, {}), Network(weights, mixers)
settings = shape["optimiser"]
trained = list(student.parameters())
optimiser = torch.optim.AdamW(
    trained,
    lr=settings["lr"],
    betas=tuple(settings["betas"]),
    eps=settings["eps"],
    weight_decay=settings["weightDecay"],
    fused=True,
)
tokens = torch.from_numpy(numpy.fromfile(f"{directory}/tokens.bin", dtype="<i4").astype("int64"))
tokens = tokens.view(-1, shape["batch"], shape["time"])
rotation = rotation_table()


@torch.compile
def teacher_logits(ids):
    return teacher(ids, rotation)


@torch.compile
def divergence(ids, teacher_logits):
    """Mean over tokens of KL(teacher || student)."""
    log_p, log_q = F.log_softmax(teacher_logits.float(), -1), F.log_softmax(student(ids, rotation).float(), -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def train(first, steps):
    losses, norms = [], []
    began, cpu_began = time.perf_counter(), time.process_time()
    for index in range(first, first + steps):
        ids = tokens[index % len(tokens)]
        with torch.no_grad():
            target = teacher_logits(ids)
        loss = divergence(ids, target)
        del target
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, settings["clip"])))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return {
        "seconds": time.perf_counter() - began,
        "cpuSeconds": time.process_time() - cpu_began,
        "losses": losses,
        "gradientNorms": norms,
    }


def answer(message):
    print(json.dumps(message), flush=True)


answer({"ready": f"torch {torch.__version__}"})
for line in sys.stdin:
    answer(train(**json.loads(line)))
