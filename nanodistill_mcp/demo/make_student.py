"""Makes the demo's base model: `python -m nanodistill_mcp.demo.make_student OUT_DIR`.

A Llama of 2 blocks, width 64, 4 heads and 1,500 tokens (178,000 weights, 32-bit, 0.7 MB), trained from scratch on the
exercises in `primitives.py` and on nothing else: 6,000 batches of 32 of them, made on the fly. `primitives.py` says what that
includes and what it leaves out. Copying comes first, because two blocks find the circuit that copies only when nothing
easier pays, and every other exercise builds on it.

The packaged folder was made by this command in 16 minutes on one core of a busy x86-64 machine with OpenBLAS
(`OPENBLAS_NUM_THREADS=1`). The SHA-256 of its `model.safetensors` is
91996380da2f13dfef19c65636cf56feb6dc21327c14573903f48f0cd1bfcf2e
The same command on the same kind of machine makes the same file; another processor or BLAS rounds otherwise.
"""
# ruff: noqa: PLC0415, T201 - MLX is imported after its BLAS is chosen; this is a script and speaks to a person
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false
# pyright: reportPrivateImportUsage=false

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanodistill_mcp.demo import primitives
from nanodistill_mcp.student import blas

BATCH_SIZE = 32
BATCHES = 6000
COPYING_BATCHES = 1000
"""Batches at the beginning in which every exercise is copying."""
PROMPT_WEIGHT = 0.1
"""Weight of a question's tokens in the loss: enough that every word is learnt as something to write, too."""
LEARNING_RATE = 5e-3
WARMUP = 60
VOCABULARY_SIZE = 1500
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
PAD, END_OF_TEXT, TURN_START, TURN_END = SPECIAL_TOKENS = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINKING = ["<thinking>", "</thinking>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    """Train a byte-level BPE on the vocabulary: nearly every word is one token, and any other text still has tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(THINKING),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    frequent = {*primitives.kind_of(), *primitives.kinds(), *primitives.ASKING.split()}
    lines: list[str] = []
    for word in primitives.vocabulary():
        lines += [f" {word}"] * (20 if word in frequent else 8)
    # What an answer or a text begins with has no space before it.
    for word in sorted(
        {*primitives.CAPITALISED.split(), *primitives.kinds(), *primitives.PLACES.values(), *primitives.task.QUEUES}
    ):
        lines += [word] * 20
    lines += ["system", "user", "assistant", " ->"] * 500
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    thinking: list[Any] = [AddedToken(token, normalized=False) for token in THINKING]
    fast.add_tokens(thinking)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(tokenizer: Any) -> dict[str, Any]:
    """The model's config.json."""
    return {
        **SHAPE,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_model(config: dict[str, Any], seed: int) -> Any:
    """A model with random weights."""
    import mlx.core as mx
    from mlx_lm.models import llama

    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    embedding = model.model.embed_tokens
    embedding.weight = 0.1 * mx.random.normal(embedding.weight.shape)
    mx.eval(model.parameters())
    return model


def train(model: Any, tokenizer: Any, seed: int, batches: int) -> Iterator[tuple[int, float]]:
    """Train every weight, and yield the number of batches done and their mean loss now and then."""
    import mlx.core as mx
    from mlx import nn, optimizers

    decay = optimizers.cosine_decay(LEARNING_RATE, batches - WARMUP, LEARNING_RATE / 30)
    schedule = optimizers.join_schedules([optimizers.linear_schedule(1e-6, LEARNING_RATE, WARMUP), decay], [WARMUP])
    optimizer = optimizers.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.01)

    def loss_of(model: Any, tokens: mx.array, weights: mx.array) -> mx.array:
        loss = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
        return (loss * weights).sum() / weights.sum()

    step = nn.value_and_grad(model, loss_of)
    losses: list[float] = []
    for done, (tokens, weights) in enumerate(_batches(tokenizer, random.Random(seed), batches), 1):  # noqa: S311
        loss, gradients = step(model, tokens, weights)
        gradients, _ = optimizers.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        losses.append(loss.item())
        if done % 250 == 0 or done == batches:
            yield done, sum(losses) / len(losses)
            losses.clear()


def _batches(tokenizer: Any, rng: random.Random, batches: int) -> Iterator[tuple[Any, Any]]:
    """Batches of rows of similar length, as token ids (rows, width) and weights of their targets (rows, width - 1)."""
    import mlx.core as mx
    import numpy as np

    pool: list[list[tuple[list[int], int]]] = []
    for number in range(batches):
        if not pool:
            draw = primitives.copy if number < COPYING_BATCHES else primitives.draw
            rows = sorted(
                (_row(tokenizer, rng, draw(rng)) for _ in range(BATCH_SIZE * 16)), key=lambda row: len(row[0])
            )
            pool = [rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE)]
            rng.shuffle(pool)
        batch = pool.pop()
        width = max(len(tokens) for tokens, _ in batch)
        padded, weights = np.zeros((len(batch), width), np.int32), np.zeros((len(batch), width - 1), np.float32)
        for index, (tokens, answer_start) in enumerate(batch):
            padded[index, : len(tokens)] = tokens
            weights[index, : answer_start - 1] = PROMPT_WEIGHT
            weights[index, answer_start - 1 : len(tokens) - 1] = 1
        yield mx.array(padded), mx.array(weights)


def _row(tokenizer: Any, rng: random.Random, exercise: primitives.Exercise) -> tuple[list[int], int]:
    """The tokens of an exercise up to the end of the answer's turn, and where the answer starts."""
    turns = primitives.conversation(rng, exercise)
    question = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    return tokenizer.apply_chat_template(turns, return_dict=False)[:-1], len(question)  # without the last newline


def save(out_dir: Path, model: Any, config: dict[str, Any], tokenizer: Any) -> None:
    """Write the folder in the Hugging Face form."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    generation = {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (out_dir / "generation_config.json").write_text(json.dumps(generation) + "\n", encoding="utf-8")
    mx.save_safetensors(
        str(out_dir / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "pt"}
    )


def scores(out_dir: Path, *, rows: int = 600, seed: int = 10**6) -> dict[str, tuple[int, int]]:
    """How many new exercises of each sort the saved model answers exactly, and of how many."""
    from mlx_lm import batch_generate, load

    model, tokenizer = load(str(out_dir))[:2]
    rng = random.Random(seed)  # noqa: S311
    exercises = [primitives.draw(rng) for _ in range(rows)]
    prompts = [
        tokenizer.apply_chat_template(primitives.conversation(rng, exercise)[:-1], add_generation_prompt=True)
        for exercise in exercises
    ]
    answers = batch_generate(model, tokenizer, prompts, max_tokens=64, completion_batch_size=100).texts
    right: dict[str, tuple[int, int]] = {}
    for exercise, answer in zip(exercises, answers, strict=True):
        hits, count = right.get(exercise.name, (0, 0))
        right[exercise.name] = hits + (answer.strip() == exercise.answer), count + 1
    return right


def main() -> None:
    """Make the base model and report what it can do."""
    parser = argparse.ArgumentParser(description="Makes the demo's base model.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batches", type=int, default=BATCHES)
    arguments = parser.parse_args()
    print(f"BLAS: {blas.prepare().blas or 'reference'}")
    tokenizer = make_tokenizer()
    config = make_config(tokenizer)
    model = make_model(config, arguments.seed)
    started = time.monotonic()
    for done, loss in train(model, tokenizer, arguments.seed, arguments.batches):
        print(f"{done} batches, loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
        if done % 1000 == 0:
            save(arguments.out_dir, model, config, tokenizer)
    save(arguments.out_dir, model, config, tokenizer)
    for name, (hits, count) in sorted(scores(arguments.out_dir).items()):
        print(f"{name}: {hits} of {count} right")


if __name__ == "__main__":
    main()
