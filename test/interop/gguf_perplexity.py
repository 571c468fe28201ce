"""The perplexity of a GGUF file of the Llama architecture in transformers, independently of Molt's reader.

Usage: gguf_perplexity.py MODEL.gguf WINDOWS.json, where WINDOWS is a list of lists of token ids. Prints JSON: the mean
negative log-likelihood of all tokens but the first of each window, how many they are, and the logits after the first
window's last token. Only the types of the file under test are dequantised, with whole arrays at once.
"""

import json
import struct
import sys

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        length = self.scalar("<Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            element, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(element) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def dequantise(raw, kind):
    """Rows of blocks of 32 values; F32 as it is."""
    if kind == 0:
        return raw.view("<f4")
    if kind == 8:
        blocks = raw.reshape(-1, 34)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        return (scale * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(-1)
    if kind == 3:
        blocks = raw.reshape(-1, 20)
        scale, offset = blocks[:, :4].copy().view("<f2").astype(np.float32).T
        codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
        return (scale[:, None] * codes + offset[:, None]).reshape(-1)
    raise SystemExit(f"type {kind} is not in the file this was written for")


def load(path):
    reader = Reader(np.memmap(path, dtype=np.uint8, mode="r"))
    assert reader.scalar("<I") == 0x46554747 and reader.scalar("<I") == 3
    tensors, keys = reader.scalar("<Q"), reader.scalar("<Q")
    meta = {}
    for _ in range(keys):
        key = reader.text()
        meta[key] = reader.value(reader.scalar("<I"))
    table = []
    for _ in range(tensors):
        name = reader.text()
        shape = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))]
        table.append((name, shape[::-1], reader.scalar("<I"), reader.scalar("<Q")))
    begin = (reader.at + 31) // 32 * 32

    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    size = {0: (1, 4), 3: (32, 20), 8: (32, 34)}
    weights = {}
    for name, shape, kind, offset in table:
        values, block = size[kind]
        count = int(np.prod(shape))
        raw = np.array(reader.data[begin + offset : begin + offset + count // values * block])
        tensor = dequantise(raw, kind).reshape(shape)
        parts = name.split(".")
        if parts[0] == "blk":
            if parts[2] in heads:
                # The converter swapped the two axes of (half, channel) within every head; swap them back.
                split = tensor.reshape(heads[parts[2]], shape[0] // heads[parts[2]] // 2, 2, *shape[1:])
                tensor = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(shape)
            target = f"model.layers.{parts[1]}.{names[parts[2]]}.{parts[3]}"
        else:
            target = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        weights[target] = torch.from_numpy(np.array(tensor))

    config = LlamaConfig(
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads["attn_q"],
        num_key_value_heads=heads["attn_k"],
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=meta["llama.rope.freq_base"],
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def main():
    model = load(sys.argv[1])
    with open(sys.argv[2]) as file:
        windows = json.load(file)
    total, count, last = 0.0, 0, None
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([window])
            logits = model(ids).logits[0]
            if last is None:
                last = logits[-1].tolist()
            # In float64: the sum alone would lose 2e-6 of itself in float32.
            scores = logits[:-1].double()
            total += torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="sum").item()
            count += len(window) - 1
    print(json.dumps({"nll": total / count, "tokens": count, "last": last}))


main()
