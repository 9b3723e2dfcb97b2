#!/usr/bin/env python3
"""Writes a bf16 OpenELM checkpoint as the GGUF file that llama.cpp reads: the same bits, the same vocabulary.

  make_gguf.py CHECKPOINT_DIR OUT.gguf

The checkpoint is one model.safetensors in bf16, as tests/tools/make_checkpoint.py writes it. Matrices stay bf16; the gains of norms
become f32, as llama.cpp wants them. The vocabulary is that of tests/tools/make_tokenizer.py.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))
from make_tokenizer import SPECIAL, pieces_and_merges  # noqa: E402
from openelm_ref import expand_config  # noqa: E402

OUTSIDE = {"transformer.token_embeddings.weight": "token_embd.weight", "transformer.norm.weight": "output_norm.weight"}
INSIDE = {
    "attn_norm.weight": "attn_norm.weight",
    "attn.qkv_proj.weight": "attn_qkv.weight",
    "attn.q_norm.weight": "attn_q_norm.weight",
    "attn.k_norm.weight": "attn_k_norm.weight",
    "attn.out_proj.weight": "attn_output.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn.proj_2.weight": "ffn_down.weight",
}
BYTES = 256


def tensors(path):
    """Name and bf16 bits of each tensor, mapped from the file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{path}: {name} is {entry['dtype']}, expected BF16")
        begin = 8 + length + entry["data_offsets"][0]
        yield name, np.memmap(path, np.uint16, "r", begin, tuple(entry["shape"]))


def renamed(name, bits, ffn_dims):
    """The tensors that llama.cpp has for one of the checkpoint: proj_1 holds gate and up, one below the other."""
    if name in OUTSIDE:
        return [(OUTSIDE[name], bits)]
    layer, rest = name.removeprefix("transformer.layers.").split(".", 1)
    block = f"blk.{layer}."
    if rest == "ffn.proj_1.weight":
        rows = ffn_dims[int(layer)]
        return [(block + "ffn_gate.weight", bits[:rows]), (block + "ffn_up.weight", bits[rows:])]
    return [(block + INSIDE[rest], bits)]


def add_tensor(writer, name, bits):
    if bits.ndim == 1:
        writer.add_tensor(name, (bits.astype(np.uint32) << 16).view(np.float32))
    else:
        writer.add_tensor(name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def add_shape(writer, config, ffn_dims):
    writer.add_name("openelm-random")
    writer.add_block_count(config["num_transformer_layers"])
    writer.add_context_length(config["max_context_length"])
    writer.add_embedding_length(config["model_dim"])
    writer.add_feed_forward_length(ffn_dims)
    writer.add_head_count(config["num_query_heads"])
    writer.add_head_count_kv(config["num_kv_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_freq_constant"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def token_type(index):
    if index < len(SPECIAL):
        return gguf.TokenType.UNKNOWN if index == 0 else gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if index < len(SPECIAL) + BYTES else gguf.TokenType.NORMAL


def add_vocabulary(writer, size):
    pieces, _ = pieces_and_merges(size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in pieces])
    # The earlier a piece was merged, the higher its score.
    writer.add_token_scores([-float(index) for index in range(size)])
    writer.add_token_types([token_type(index) for index in range(size)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((checkpoint / "config.json").read_text())
    ffn_dims = expand_config(config)["ffn_dims"]
    writer = gguf.GGUFWriter(out, "openelm")
    add_shape(writer, config, ffn_dims)
    add_vocabulary(writer, config["vocab_size"])
    for name, bits in tensors(checkpoint / "model.safetensors"):
        for new_name, part in renamed(name, bits, ffn_dims):
            add_tensor(writer, new_name, part)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
