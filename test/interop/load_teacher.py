"""Loads a teacher directory with plain transformers; prints, as JSON, token ids of texts and logits of the first text.

usage: load_teacher.py DIRECTORY TEXTS.json        TEXTS.json: a list of texts
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

directory, texts_file = sys.argv[1:]
with open(texts_file, encoding="utf-8") as file:
    texts = json.load(file)

torch.set_num_threads(1)
model, info = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
)
automatic = AutoTokenizer.from_pretrained(directory)
plain = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
with torch.no_grad():
    logits = model.eval()(torch.tensor([automatic(texts[0])["input_ids"]])).logits[0]
print(
    json.dumps(
        {
            "class": type(model).__name__,
            "problems": [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]],
            "stop": model.generation_config.eos_token_id,
            "automatic": [automatic(text)["input_ids"] for text in texts],
            "plain": [plain.encode(text).ids for text in texts],
            "logits": logits.flatten().tolist(),
        }
    )
)
