"""Compares an export with the student it was made from, computed here without transformers.

usage: hybrid_reference.py DIRECTORY...

Each directory is an export that also holds student.json (Molt's HybridConfig) and student.safetensors (its weights
under Molt's own names). The student runs in float64, token by token, straight from the definition of the mixer; the export runs in plain
transformers in float32: the whole sequence at once, and in two parts with a cache. Prints one line of JSON
for each directory.
"""
import json
import math
import os
import sys

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM


def silu(u):
    return u / (1 + np.exp(-u))


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotary_frequencies(rope, head_dim):
    frequencies = rope["theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    scaling = rope["scaling"]
    if scaling is None:
        return frequencies
    if scaling["kind"] == "linear":
        return frequencies / scaling["factor"]
    # Llama 3: long wavelengths are stretched, short ones kept, those between are blended.
    wavelength = 2 * math.pi / frequencies
    turns = scaling["originalMaxPositions"] / wavelength
    low, high = scaling["lowFreqFactor"], scaling["highFreqFactor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (keep + (1 - keep) / scaling["factor"])


def rotate(x, positions, frequencies):
    angle = positions[:, None] * frequencies
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


class Student:
    def __init__(self, config, weights):
        self.c = config["transformer"]
        self.mamba = config["mamba"]
        self.layout = config["layout"]
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        bias = self.w.get(f"{name}.bias")
        return y if bias is None else y + bias

    def logits(self, ids):
        eps = self.c["rmsNormEps"]
        h = self.w["embed.weight"][ids]
        for i, letter in enumerate(self.layout):
            layer = f"layers.{i}"
            u = rms_norm(h, self.w[f"{layer}.inputNorm.weight"], eps)
            h = h + (self.attention(layer, u) if letter == "A" else self.mixer(layer, u))
            u = rms_norm(h, self.w[f"{layer}.postNorm.weight"], eps)
            h = h + self.linear(f"{layer}.mlp.down", silu(self.linear(f"{layer}.mlp.gate", u)) * self.linear(f"{layer}.mlp.up", u))
        h = rms_norm(h, self.w["finalNorm.weight"], eps)
        return h @ self.w["embed.weight" if self.c["tiedEmbeddings"] else "head.weight"].T

    def attention(self, layer, u):
        time, heads, kv, size = len(u), self.c["heads"], self.c["kvHeads"], self.c["headDim"]
        name = f"{layer}.attention"
        frequencies, positions = rotary_frequencies(self.c["rope"], size), np.arange(time)
        q = rotate(self.linear(f"{name}.query", u).reshape(time, heads, size), positions, frequencies)
        k = rotate(self.linear(f"{name}.key", u).reshape(time, kv, size), positions, frequencies)
        v = self.linear(f"{name}.value", u).reshape(time, kv, size)
        out = np.zeros((time, heads, size))
        for head in range(heads):
            shared = head // (heads // kv)
            for t in range(time):
                score = k[: t + 1, shared] @ q[t, head] / math.sqrt(size)
                share = np.exp(score - score.max())
                out[t, head] = share / share.sum() @ v[: t + 1, shared]
        return self.linear(f"{name}.output", out.reshape(time, heads * size))

    def mixer(self, layer, u):
        heads = self.c["heads"] * self.mamba["headsPerQuery"]
        size, state_size, scale = self.c["headDim"], self.mamba["stateSize"], self.mamba["activationScale"]
        inner, states = heads * size, heads * state_size
        w = {name: self.w[f"{layer}.mamba.{name}"] for name in
             ("inProj", "convWeight", "convBias", "dtBias", "aLog", "d", "gain", "outProj")}
        z, xbc, e = np.split(u @ w["inProj"].T, [inner, 2 * inner + 2 * states], axis=-1)
        padded = np.concatenate([np.zeros((3, xbc.shape[1])), xbc])
        y = np.zeros((len(u), inner))
        state = np.zeros((heads, size, state_size))
        for t in range(len(u)):
            conv = w["convBias"] + sum(w["convWeight"][:, tap] * padded[t + tap] for tap in range(4))
            activated = silu(scale * conv) * (2 / scale)
            x, b, c = np.split(activated, [inner, inner + states])
            x, b, c = x.reshape(heads, size), b.reshape(heads, state_size), c.reshape(heads, state_size)
            dt = np.log1p(np.exp(e[t] + w["dtBias"]))
            decay = np.exp(-dt * np.exp(w["aLog"]))
            state = decay[:, None, None] * state + dt[:, None, None] * x[:, :, None] * b[:, None, :]
            y[t] = ((state * c[:, None, :]).sum(-1) + w["d"][:, None] * x).reshape(inner)
        return (w["gain"] * y * silu(z)) @ w["outProj"].T


def compare(directory):
    with open(os.path.join(directory, "student.json")) as file:
        config = json.load(file)
    student = Student(config, load_file(os.path.join(directory, "student.safetensors")))
    vocabulary, time = config["transformer"]["vocabSize"], 40
    ids = np.random.default_rng(0).integers(0, vocabulary, time)
    expected = student.logits(ids)

    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True, attn_implementation="eager")
    model.eval()
    tokens = torch.tensor(ids)[None]
    with torch.no_grad():
        whole = model(input_ids=tokens).logits[0].double().numpy()
        half = model(input_ids=tokens[:, : time // 2], use_cache=True)
        parts, cache = [half.logits], half.past_key_values
        for t in range(time // 2, time):
            step = model(input_ids=tokens[:, t : t + 1], past_key_values=cache, use_cache=True)
            parts.append(step.logits)
            cache = step.past_key_values
        cached = torch.cat(parts, 1)[0].double().numpy()

    return {
        "class": type(model).__name__,
        "problems": [str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]],
        "parameters": sum(p.numel() for p in model.parameters()),
        "largestLogit": float(np.abs(expected).max()),
        "difference": float(np.abs(whole - expected).max()),
        "cachedDifference": float(np.abs(cached - expected).max()),
        "sameBestGuess": float((whole.argmax(-1) == expected.argmax(-1)).mean()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    for directory in sys.argv[1:]:
        print(json.dumps(compare(directory)))
