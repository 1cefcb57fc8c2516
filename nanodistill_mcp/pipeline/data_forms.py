"""The rows a student is trained on as other trainers read them, with the file that starts each.

=============  ============================================================  =======================================
form           rows                                                          documented in (repository: file)
=============  ============================================================  =======================================
trl            conversational prompt and completion                          huggingface/trl: docs/source/dataset_formats.md
llama-factory  OpenAI messages, told apart by ``dataset_info.json``          hiyouga/LLaMA-Factory: data/README.md
unsloth        ``conversations`` of from and value                           unslothai/unsloth-zoo: unsloth_zoo/dataset_utils.py
axolotl        messages, ``type: chat_template``                             axolotl-ai-cloud/axolotl: docs/dataset-formats/conversation.qmd
easydistill    messages and metadata                                         modelscope/easydistill: docs/data_formats.md
alpaca         instruction, input, output                                    hiyouga/LLaMA-Factory: data/README.md
=============  ============================================================  =======================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from nanodistill_mcp.runs.files import json_bytes

DataForm = Literal["trl", "llama-factory", "unsloth", "axolotl", "easydistill", "alpaca"]
FORMS: tuple[DataForm, ...] = get_args(DataForm)


@dataclass(frozen=True)
class Taught:
    """One row: what a student is asked, and what it is taught to write."""

    id: str
    instruction: str
    input: str
    target: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a conversation."""
        return [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": self.input},
            {"role": "assistant", "content": self.target},
        ]


@dataclass(frozen=True)
class Started:
    """What a trainer is started with."""

    name: str
    """The run's."""
    model: str
    teacher: str
    rank: int
    alpha: float
    learning_rate: float
    epochs: float
    max_tokens: int
    batch_size: int
    has_validation: bool


def file_name(form: DataForm, part: str) -> str:
    """Where a part of the rows goes."""
    return f"{part}.json" if form == "alpaca" else f"{part}.jsonl"


def rows_as(form: DataForm, rows: list[Taught], teacher: str) -> bytes:
    """A file of rows."""
    written = [_ROW[form](row, teacher) for row in rows]
    if form == "alpaca":
        return _one_line(json_bytes(written, indent=1)) + b"\n"
    return b"".join(_one_line(json_bytes(row)) + b"\n" for row in written)


def _one_line(data: bytes) -> bytes:
    """JSON without characters that some readers take for a line's end inside a text: as escapes, which are the same text."""
    for mark in ("\u2028", "\u2029", "\u0085"):
        data = data.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return data


def starters(form: DataForm, started: Started) -> dict[str, bytes]:
    """The files beside the rows that start a training, by name; the first one is named in the command."""
    return {name: text.encode() for name, text in _STARTERS[form](started).items()}


COMMANDS: dict[DataForm, str] = {
    "trl": "python sft.py",
    "llama-factory": "llamafactory-cli train train.yaml",
    "unsloth": "python sft.py",
    "axolotl": "axolotl train axolotl.yml",
    "easydistill": "llamafactory-cli train train.yaml",
    "alpaca": "llamafactory-cli train train.yaml",
}
"""What starts a training in the folder. EasyDistill 2 has no trainer: its guide hands its rows to LLaMA-Factory."""

_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def _conversations(row: Taught) -> list[dict[str, str]]:
    return [{"from": _ROLES[message["role"]], "value": message["content"]} for message in row.messages]


_ROW: dict[DataForm, Callable[[Taught, str], dict[str, Any]]] = {
    "trl": lambda row, _: {"prompt": row.messages[:2], "completion": row.messages[2:]},
    "llama-factory": lambda row, _: {"messages": row.messages},
    "unsloth": lambda row, _: {"conversations": _conversations(row)},
    "axolotl": lambda row, _: {"messages": row.messages},
    "easydistill": lambda row, teacher: {
        "messages": row.messages,
        "metadata": {"source": "teacher_model", "model": teacher, "request_id": row.id},
    },
    "alpaca": lambda row, _: {"instruction": row.instruction, "input": row.input, "output": row.target},
}

_MESSAGES = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
_COLUMNS = {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}
_TEMPLATES = (
    *(("qwen3", "qwen3"), ("qwen2", "qwen"), ("llama-3", "llama3"), ("gemma", "gemma"), ("phi-3", "phi")),
    *(("mistral", "mistral"), ("smollm2", "smollm2"), ("granite-3", "granite3")),
)
"""Of LLaMA-Factory, by what a model's name says of its family."""


def _llama_factory(started: Started, form: DataForm) -> dict[str, str]:
    described = _COLUMNS if form == "alpaca" else _MESSAGES
    parts = ["train", "validation"] if started.has_validation else ["train"]
    datasets = {f"{started.name}_{part}": {"file_name": file_name(form, part), **described} for part in parts}
    lower = started.model.lower()
    template = next((template for words, template in _TEMPLATES if words in lower), "default")
    config: dict[str, Any] = {
        "model_name_or_path": started.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": started.rank,
        "lora_alpha": round(started.alpha),
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": f"{started.name}_train",
        "template": template,
        "cutoff_len": started.max_tokens,
        "output_dir": "saved",
        "per_device_train_batch_size": started.batch_size,
        "learning_rate": started.learning_rate,
        "num_train_epochs": started.epochs,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "bf16": True,
        "report_to": "none",
    }
    if started.has_validation:
        config |= {"eval_dataset": f"{started.name}_validation", "eval_strategy": "epoch"}
    return {
        "train.yaml": _yaml(config),
        "dataset_info.json": json_bytes(datasets, indent=2).decode() + "\n",
    }


def _axolotl(started: Started) -> dict[str, str]:
    def dataset(part: str) -> dict[str, Any]:
        return {
            "path": file_name("axolotl", part),
            "ds_type": "json",
            "split": "train",
            "type": "chat_template",
            "field_messages": "messages",
            "message_property_mappings": {"role": "role", "content": "content"},
            "roles_to_train": ["assistant"],
        }

    config: dict[str, Any] = {
        "base_model": started.model,
        "chat_template": "tokenizer_default",
        "datasets": [dataset("train")],
        "val_set_size": 0.0,
        "dataset_prepared_path": "prepared",
        "output_dir": "saved",
        "adapter": "lora",
        "lora_r": started.rank,
        "lora_alpha": round(started.alpha),
        "lora_target_linear": True,
        "sequence_len": started.max_tokens,
        "micro_batch_size": started.batch_size,
        "gradient_accumulation_steps": 1,
        "num_epochs": started.epochs,
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": started.learning_rate,
        "warmup_ratio": 0.1,
        "bf16": "auto",
    }
    if started.has_validation:
        config |= {"test_datasets": [dataset("validation")], "evals_per_epoch": 1}
    return {"axolotl.yml": _yaml(config)}


def _trl(started: Started) -> dict[str, str]:
    return {
        "sft.py": f'''\
"""Trains on the rows beside it with TRL; the loss is the completion's alone."""

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

rows = load_dataset("json", data_files={_data_files("trl", started)!r})
trainer = SFTTrainer(
    model={started.model!r},
    args=SFTConfig({_arguments(started)}),
    train_dataset=rows["train"],
    eval_dataset=rows.get("validation"),
    peft_config=LoraConfig(r={started.rank}, lora_alpha={started.alpha:g}, target_modules="all-linear"),
)
trainer.train()
trainer.save_model("saved")
'''
    }


def _unsloth(started: Started) -> dict[str, str]:
    return {
        "sft.py": f'''\
"""Trains on the rows beside it with Unsloth. For a loss of the answers alone, add train_on_responses_only with your template's marks."""

from unsloth import FastLanguageModel
from unsloth.chat_templates import standardize_sharegpt
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, tokenizer = FastLanguageModel.from_pretrained({started.model!r}, max_seq_length={started.max_tokens}, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r={started.rank}, lora_alpha={started.alpha:g})


def as_text(rows):
    return {{"text": [tokenizer.apply_chat_template(each, tokenize=False) for each in rows["conversations"]]}}


rows = load_dataset("json", data_files={_data_files("unsloth", started)!r})
parts = {{name: standardize_sharegpt(part).map(as_text, batched=True) for name, part in rows.items()}}
trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=parts["train"],
    eval_dataset=parts.get("validation"),
    args=SFTConfig(dataset_text_field="text", {_arguments(started)}),
)
trainer.train()
model.save_pretrained("saved")
'''
    }


def _data_files(form: DataForm, started: Started) -> dict[str, str]:
    parts = ["train", "validation"] if started.has_validation else ["train"]
    return {part: file_name(form, part) for part in parts}


def _arguments(started: Started) -> str:
    return (
        f'output_dir="saved", learning_rate={started.learning_rate:g}, num_train_epochs={started.epochs:g}, '
        f"per_device_train_batch_size={started.batch_size}, max_length={started.max_tokens}, "
        'lr_scheduler_type="cosine", warmup_ratio=0.1, report_to="none"'
    )


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


_STARTERS: dict[DataForm, Callable[[Started], dict[str, str]]] = {
    "trl": _trl,
    "llama-factory": lambda started: _llama_factory(started, "llama-factory"),
    "unsloth": _unsloth,
    "axolotl": _axolotl,
    "easydistill": lambda started: _llama_factory(started, "easydistill"),
    "alpaca": lambda started: _llama_factory(started, "alpaca"),
}
