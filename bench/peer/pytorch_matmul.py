"""PyTorch's side of products.ts: torch.matmul on one thread, into a result that is there already. Reads one request a line,
{"M", "N", "K", "transposeA", "transposeB", "precision", "calls"}, and answers with the processor seconds of the calls.
"""

import json
import sys
import time

import torch

torch.set_num_threads(1)
dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
key, tensors = None, None

for line in sys.stdin:
    request = json.loads(line)
    calls = request.pop("calls")
    if key != request:
        dtype = dtypes[request["precision"]]
        M, N, K = request["M"], request["N"], request["K"]
        a = torch.randn(K, M).to(dtype).t() if request["transposeA"] else torch.randn(M, K).to(dtype)
        b = torch.randn(N, K).to(dtype).t() if request["transposeB"] else torch.randn(K, N).to(dtype)
        key, tensors = request, (a, b, torch.empty(M, N, dtype=dtype))
        torch.matmul(a, b, out=tensors[2])
    a, b, c = tensors
    begin = time.process_time()
    for _ in range(calls):
        torch.matmul(a, b, out=c)
    print(json.dumps(time.process_time() - begin), flush=True)
