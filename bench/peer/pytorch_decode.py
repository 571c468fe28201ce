"""PyTorch's side of the decode comparison: one token a step for every row of a batch, with room for keys and values
made beforehand, joined projections, scaled dot product attention on the filled part, and Mamba-2's recurrence.

Written by hand and run eagerly: compiling a step of one token gains little on a CPU, whose time goes into reading the
weights. The functions are those of pytorch_step.py.

    python pytorch_decode.py DIRECTORY THREADS PRECISION SHAPE
    a request a line: {"model": "teacher" | "student", "context": n, "batch": n, "tokens": n}; answer: {"seconds": median}
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

directory, threads, precision, shape = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
torch.set_num_threads(threads)

HIDDEN, HEADS, KV_HEADS = shape["hidden"], shape["heads"], shape["kvHeads"]
HEAD_DIM = HIDDEN // HEADS
STATE = HEAD_DIM + 1
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
SCALARS = ("dtBias", "aLog", "d")


def load(name):
    tensors = load_file(f"{directory}/{name}.safetensors")
    return {key: value if key.rsplit(".", 1)[-1] in SCALARS else value.to(DTYPE) for key, value in tensors.items()}


weights, mixers = load("teacher"), load("mixers")
joined = {}
for layer in range(shape["layers"]):
    prefix = f"layers.{layer}."
    joined[layer] = {
        "qkv": torch.cat([weights[f"{prefix}attention.{name}.weight"] for name in ("query", "key", "value")]),
        "mlp": torch.cat([weights[f"{prefix}mlp.{name}.weight"] for name in ("gate", "up")]),
    }


def norm(x, name):
    return F.rms_norm(x, (HIDDEN,), weights[f"{name}.weight"], shape["rmsNormEps"])


def rotate(x, rotation):
    first, second = x.chunk(2, -1)
    cosine, sine = rotation
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class Attention:
    def __init__(self, layer, batch, capacity):
        self.layer, self.batch = layer, batch
        self.keys, self.values = (torch.randn(batch, KV_HEADS, capacity, HEAD_DIM).to(DTYPE) for _ in range(2))

    def __call__(self, u, position, rotation):
        widths = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
        query, key, value = F.linear(u, joined[self.layer]["qkv"]).split(widths, -1)
        self.keys[:, :, position] = rotate(key.view(self.batch, KV_HEADS, HEAD_DIM), rotation)
        self.values[:, :, position] = value.view(self.batch, KV_HEADS, HEAD_DIM)
        mixed = F.scaled_dot_product_attention(
            rotate(query.view(self.batch, HEADS, 1, HEAD_DIM), rotation),
            self.keys[:, :, : position + 1],
            self.values[:, :, : position + 1],
            enable_gqa=HEADS != KV_HEADS,
        )
        return F.linear(mixed.reshape(self.batch, HIDDEN), weights[f"layers.{self.layer}.attention.output.weight"])


class Mamba2:
    def __init__(self, layer, batch):
        self.weights = {name: mixers[f"layers.{layer}.mamba.{name}"] for name in
                        ("inProj", "convWeight", "convBias", "dtBias", "aLog", "d", "gain", "outProj")}
        self.batch = batch
        channels = HIDDEN + 2 * HEADS * STATE
        self.history = torch.randn(batch, channels, 4).to(DTYPE)
        self.state = torch.randn(batch, HEADS, HEAD_DIM, STATE)

    def __call__(self, u, position, rotation):
        w, width = self.weights, HEADS * STATE
        z, raw, e = F.linear(u, w["inProj"]).split((HIDDEN, HIDDEN + 2 * width, HEADS), -1)
        self.history = torch.cat((self.history[..., 1:], raw.unsqueeze(-1)), -1)
        scale = shape["activationScale"]
        mixed = F.silu(scale * ((self.history * w["convWeight"]).sum(-1) + w["convBias"])) * (2 / scale)
        x, b, c = mixed.float().split((HIDDEN, width, width), -1)
        x, b, c = (t.view(self.batch, HEADS, -1) for t in (x, b, c))
        dt = F.softplus(e.float() + w["dtBias"])
        decay = torch.exp(-dt * w["aLog"].exp())
        self.state.mul_(decay[..., None, None]).add_((dt[..., None] * x).unsqueeze(-1) * b.unsqueeze(2))
        y = torch.einsum("bhpn,bhn->bhp", self.state, c) + x * w["d"][:, None]
        return F.linear(w["gain"] * y.flatten(1).to(DTYPE) * F.silu(z), w["outProj"])


def rotations(capacity):
    exponents = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM
    angles = torch.arange(capacity, dtype=torch.float64)[:, None] * shape["ropeTheta"] ** -exponents
    return angles.cos().to(DTYPE), angles.sin().to(DTYPE)


@torch.inference_mode()
def measure(model, context, batch, tokens):
    capacity = context + tokens + 4
    layers = [
        Mamba2(layer, batch) if model == "student" and layer % 2 == 1 else Attention(layer, batch, capacity)
        for layer in range(shape["layers"])
    ]
    cosine, sine = rotations(capacity)
    ids = torch.full((batch,), 5)
    times = []
    for step in range(tokens + 3):
        position = context + step
        began = time.perf_counter()
        rotation = (cosine[position], sine[position])
        x = F.embedding(ids, weights["embed.weight"])
        for layer, mixer in enumerate(layers):
            x = x + mixer(norm(x, f"layers.{layer}.inputNorm"), position, rotation)
            gate, up = F.linear(norm(x, f"layers.{layer}.postNorm"), joined[layer]["mlp"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, weights[f"layers.{layer}.mlp.down.weight"])
        F.linear(norm(x, "finalNorm"), weights["embed.weight"]).float()
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


print(json.dumps({"ready": f"torch {torch.__version__}"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": measure(**json.loads(line))}), flush=True)
