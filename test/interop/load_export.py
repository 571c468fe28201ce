"""Loads an export with plain transformers and compares its logits with the certificate that lies beside it.

usage: load_export.py EXPORT_DIR        exit 0: equal within 2e-3, and cached decoding equals the full forward
"""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = sys.argv[1]
torch.set_num_threads(1)
model, info = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
)
model.eval()
for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not info[problem], f"{problem}: {sorted(info[problem])[:5]}"

parity = load_file(os.path.join(directory, "parity.safetensors"))
ids = parity["input_ids"].reshape(1, -1)
expected = parity["logits"].reshape(ids.shape[1], -1)
with torch.no_grad():
    full = model(ids).logits[0]
    prefix = model(ids[:, :-1], use_cache=True)
    last = model(ids[:, -1:], past_key_values=prefix.past_key_values, use_cache=True).logits[0, -1]
difference = (full - expected).abs().max().item()
cached = (full[-1] - last).abs().max().item()
tokenizer = AutoTokenizer.from_pretrained(directory)
text = tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=20, do_sample=False)[0])
print(f"{type(model).__name__}: max|Δlogit| {difference:.2e}, cached decoding {cached:.2e}, {text!r}")
assert difference <= 2e-3, "logits differ from the certificate"
assert cached <= 2e-3, "cached decoding differs from the full forward"
