"""PyTorch's side of attention.ts: scaled_dot_product_attention, causal, with shared key heads, forward and backward, on
one thread. Reads one request a line, {"batch", "time", "heads", "kvHeads", "headDim", "precision", "calls"}, and answers
with the processor seconds of the calls, {"forward", "backward"}.
"""

import json
import sys
import time

import torch

torch.set_num_threads(1)
dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
tensors = {}


def inputs(key, request):
    if key not in tensors:
        heads, shared = request["heads"], request["kvHeads"]

        def draw(count):
            shape = (request["batch"], count, request["time"], request["headDim"])
            return torch.randn(shape).to(dtypes[request["precision"]])

        query, keys, values = draw(heads).requires_grad_(), draw(shared).requires_grad_(), draw(shared).requires_grad_()
        tensors[key] = query, keys, values, draw(heads)
    return tensors[key]


for line in sys.stdin:
    request = json.loads(line)
    calls = request.pop("calls")
    query, keys, values, gradient = inputs(tuple(request.values()), request)
    seconds = {"forward": 0.0, "backward": 0.0}
    for _ in range(calls):
        query.grad = keys.grad = values.grad = None
        begin = time.process_time()
        output = torch.nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
        middle = time.process_time()
        output.backward(gradient)
        seconds["forward"] += middle - begin
        seconds["backward"] += time.process_time() - middle
    print(json.dumps(seconds), flush=True)
