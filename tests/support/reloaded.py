"""What another program makes of an exported edit: run as a file, it knows transformers, peft and gguf alone.

Reads jobs from stdin (JSON): a base folder, a form, its file or folder, texts as ids; writes the logits of
each text's last token.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch


def logits(job: dict) -> list[list[float]]:
    """The logits of each text's last token in the edited model."""
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained
    if job["form"] == "weights":
        model = plain(job["path"])
    elif job["form"] in ("ia3", "merged"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(plain(job["base"]), job["path"])
        model = model.merge_and_unload() if job["form"] == "merged" else model
    else:
        model = plain(job["base"])
        if job["form"] != "base":
            add(model, *(vector if job["form"] == "vector" else control_vector)(job["path"]))
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0, -1].tolist() for ids in job["texts"]]


def vector(path: str) -> tuple[int, torch.Tensor]:
    """The block and the vector of a file of safetensors."""
    from safetensors.torch import load_file

    ((name, added),) = load_file(path).items()
    _, block, output = name.split(".")
    assert output == "output"
    return int(block), added


def control_vector(path: str) -> tuple[int, torch.Tensor]:
    """The block and the vector of a control vector, as llama.cpp's loader names them."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    text = {name: bytes(field.parts[field.data[0]]) for name, field in reader.fields.items() if field.data}
    assert text["general.architecture"] == b"controlvector" and text["controlvector.model_hint"]
    (tensor,) = reader.tensors
    name, number = tensor.name.split(".")
    assert name == "direction" and int(number) >= 1 and tensor.tensor_type.name == "F32"
    return int(number), torch.tensor(tensor.data.copy())


def add(model: torch.nn.Module, block: int, added: torch.Tensor) -> None:
    """Let a block's output have the vector added, at every position."""
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))

    def hook(module, args, out):
        return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

    blocks[block].register_forward_hook(hook)


def elsewhere(jobs: list[dict]) -> list[list[list[float]]]:
    """The logits of each job, from a process of its own."""
    call = [sys.executable, str(Path(__file__))]
    done = subprocess.run(call, input=json.dumps(jobs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    results = [logits(job) for job in json.load(sys.stdin)]
    strange = {"biasscope", "transformer_lens"} & sys.modules.keys()
    assert not strange, strange
    sys.stdout.write(json.dumps(results))
