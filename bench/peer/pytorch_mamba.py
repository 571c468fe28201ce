"""PyTorch's side of mamba.ts: the Mamba-2 scan alone, and everything between a mixer's two projections, forward and
backward, on one thread, in the form of pytorch_step.py: torch.compile, the convolution as four shifted products, the scan
in chunks of matrix products. In bf16 the factors of products are bf16; steps, decays and states are float32.

Reads one request a line, {"batch", "time", "heads", "headDim", "precision", "calls"}, and answers with the processor
seconds of the calls, {"core": {"forward", "backward"}, "scan": {…}}. The first request of a shape compiles for minutes:
several lengths of chunks are tried, and the fastest is kept.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
# Every shape and length of chunks is compiled for itself.
torch._dynamo.config.recompile_limit = 64
dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCALE = 2**-8


def scan(x, dt, a, b, c, d, chunk):
    """As in pytorch_step.py, with products in the dtype of x."""
    heads, dtype = x.shape[2], x.dtype

    def by_chunk(t):  # [batch, heads, chunks, chunk, ...]
        return t.unflatten(1, (-1, chunk)).movedim(3, 1)

    x, dt, b, c = by_chunk(x), by_chunk(dt), by_chunk(b), by_chunk(c)
    total = torch.cumsum(dt * a.view(heads, 1, 1), -1)
    past = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~past, float("-inf")).exp()
    stepped = (x * dt.unsqueeze(-1)).to(dtype)
    inside = (c @ b.transpose(-1, -2) * decay).to(dtype) @ stepped

    end = total[..., -1:]
    written = ((b * (end - total).exp().unsqueeze(-1)).to(dtype).transpose(-1, -2) @ stepped).float()
    kept = end.exp().unsqueeze(-1)
    running = torch.zeros_like(written[:, :, 0])
    entering = []
    for index in range(x.shape[2]):
        entering.append(running)
        running = running * kept[:, :, index] + written[:, :, index]
    carried = (c * total.exp().unsqueeze(-1)).to(dtype) @ torch.stack(entering, 2).to(dtype)
    y = inside + carried + x * d.view(heads, 1, 1, 1)
    return y.movedim(1, 3).flatten(1, 2).to(dtype)


def core(projected, e, conv_weight, conv_bias, dt_bias, a_log, d, gain, chunk):
    batch, steps, heads = e.shape
    inner, dtype = gain.shape[0], projected.dtype
    width = (conv_bias.shape[0] - inner) // 2
    z, raw = projected.split((inner, inner + 2 * width), -1)
    padded = F.pad(raw, (0, 0, 3, 0))
    mixed = conv_bias
    for tap in range(4):
        mixed = mixed + padded[:, tap : tap + steps] * conv_weight[:, tap]
    mixed = (F.silu(SCALE * mixed) * (2 / SCALE)).to(dtype)
    x, b, c = mixed.split((inner, width, width), -1)
    y = scan(
        x.unflatten(-1, (heads, -1)),
        F.softplus(e + dt_bias),
        -a_log.exp(),
        b.unflatten(-1, (heads, -1)),
        c.unflatten(-1, (heads, -1)),
        d,
        chunk,
    )
    return (gain * y.flatten(2) * F.silu(z)).to(dtype)


def leaf(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).requires_grad_()


def parts_of(batch, steps, heads, head_dim, dtype):
    state = head_dim + 1
    inner, channels = heads * head_dim, heads * (head_dim + 2 * state)
    scan_inputs = [
        leaf(batch, steps, heads, head_dim, dtype=dtype),
        torch.rand(batch, steps, heads).mul_(0.1).requires_grad_(),
        torch.rand(heads).mul_(-8).requires_grad_(),
        leaf(batch, steps, heads, state, dtype=dtype),
        leaf(batch, steps, heads, state, dtype=dtype),
        leaf(heads),
    ]
    core_inputs = [
        leaf(batch, steps, inner + channels, dtype=dtype),
        leaf(batch, steps, heads),
        leaf(channels, 4),
        leaf(channels),
        leaf(heads),
        leaf(heads),
        leaf(heads),
        leaf(inner),
    ]
    return {"core": (core, core_inputs), "scan": (scan, scan_inputs)}


def timed(compiled, inputs, chunk, calls):
    seconds = {"forward": 0.0, "backward": 0.0}
    for _ in range(calls):
        begin = time.process_time()
        output = compiled(*inputs, chunk)
        middle = time.process_time()
        torch.autograd.grad(output, inputs, torch.ones_like(output))
        seconds["forward"] += middle - begin
        seconds["backward"] += time.process_time() - middle
    return seconds


def fastest(function, inputs):
    """The function compiled for the best length of chunks."""
    candidates = []
    compiled = torch.compile(function, dynamic=False)
    for chunk in (32, 64, 128):
        timed(compiled, inputs, chunk, 3)
        candidates.append((sum(timed(compiled, inputs, chunk, 10).values()), chunk))
    _, chunk = min(candidates)
    return lambda calls: timed(compiled, inputs, chunk, calls)


ready = {}
for line in sys.stdin:
    request = json.loads(line)
    calls = request.pop("calls")
    key = tuple(request.values())
    if key not in ready:
        batch, steps, heads, head_dim, precision = key
        parts = parts_of(batch, steps, heads, head_dim, dtypes[precision])
        ready[key] = {name: fastest(function, inputs) for name, (function, inputs) in parts.items()}
    print(json.dumps({name: run(calls) for name, run in ready[key].items()}), flush=True)
