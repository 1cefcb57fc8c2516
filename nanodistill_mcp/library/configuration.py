"""What a distillation is configured with: NanoDistill's parameters under its names, and what there is beyond them."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.plan import check_options
from nanodistill_mcp.pipeline.recipe import preset_options
from nanodistill_mcp.runs.paths import run_id_of
from nanodistill_mcp.runs.records import Reasoning, ThinkingFormat
from nanodistill_mcp.settings import PromptName

_ARGUMENTS = ("name", "instruction", "teacher", "student", "augment_factor", "reasoning", "preset", "budget_usd")
_OTHERS = ("seed", "response_model", "output_dir", "export_gguf", "quantization", "prompts", "options")
_CLI_NAMES = {
    "lora_layers": "num-layers",
    "gradient_accumulation_steps": "grad-accumulation-steps",
    "gradient_checkpointing": "grad-checkpoint",
}
_TRAINER_TAKES = (
    *("fine_tune_type", "optimizer", "lora_layers", "batch_size", "learning_rate", "gradient_accumulation_steps"),
    *("max_seq_length", "gradient_checkpointing", "seed"),
)


class DistillationConfig(BaseModel):
    """Everything :func:`distill` takes. What is left out is resolved from the preset, the examples and the machine.

    ``preset="nanodistill"`` gives NanoDistill's own defaults exactly. The ranges are those of docs/options.md.

    Raises:
        UserInputError: A name that is not known, or a value that is not accepted; says which, and what is.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    name: str = Field(description="The run's id: called again with it, a run goes on where it stopped.")
    seed: list[dict[str, Any]] | Path = Field(
        description="Examples {input, output}, or a .json, .jsonl or .csv file of them."
    )
    instruction: str = Field(description="What the student is to do with an input.")
    teacher: str = Field(
        default="", description="A LiteLLM id or a configured endpoint; empty is the configured default."
    )
    student: str = Field(default="", description="A hub id or a local folder; empty is the configured default.")
    augment_factor: int = Field(default=50, description="Training examples wanted per seed.")
    output_dir: Path | None = Field(
        default=Path("outputs"), description="Where a link to the run's folder is made; None makes none."
    )
    response_model: type[BaseModel] | None = Field(default=None, description="The form every output keeps.")
    export_gguf: bool = Field(default=True, description="Write model.gguf and a Modelfile for Ollama in the end.")
    quantization: str = "Q4_K_M"
    reasoning: Reasoning = "cot"
    preset: str = "recommended"
    budget_usd: float = Field(default=5.0, description="The most the teacher is paid.")
    prompts: dict[PromptName, str | Path] = Field(
        default={}, description="Texts or files that replace the package's prompts, by what they ask for."
    )

    batch_size: int | None = None
    learning_rate: float | None = None
    num_train_epochs: float | None = None
    max_seq_length: int | None = None
    lora_rank: int | None = None
    lora_layers: int | None = None
    temperature: float | None = None
    val_split: float | None = None
    thinking_format: ThinkingFormat | None = None
    max_memory_gb: float | None = None
    memory_hard_limit_gb: float | None = None
    cpu_capacity_percent: float | None = None
    litellm_kwargs: dict[str, Any] = Field(default={}, description="How the teacher writes, by LiteLLM's names.")
    mlx_lm_kwargs: dict[str, Any] = Field(default={}, description="How the student is trained, by MLX-LM's names.")
    options: dict[str, Any] = Field(
        default={}, description="Any option of docs/options.md; as keywords they are taken, too."
    )

    @model_validator(mode="after")
    def _is_accepted(self) -> "DistillationConfig":
        run_id_of(self.name)
        if unknown := [name for name in self.model_extra or {} if name in ("api_key", "api_base", "base_url")]:
            raise UserInputError(
                f"{', '.join(unknown)}: keys and addresses are no arguments.",
                next_step="Set the key in the environment or in .env; addresses stand under teachers in config.yaml.",
            )
        preset_options(self.preset, check_options(self.run_options()))
        return self

    def run_options(self) -> dict[str, Any]:
        """The options of the run, as create_run takes them."""
        named = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in (*_ARGUMENTS, *_OTHERS) and getattr(self, name) not in (None, {})
        }
        return {**self.options, **(self.model_extra or {}), **named}

    def arguments(self) -> dict[str, Any]:
        """The arguments of create_run."""
        seed = (
            {"seed": self.seed}
            if isinstance(self.seed, list)
            else {"seed_path": str(self.seed.expanduser().absolute())}
        )
        schema = self.response_model.model_json_schema() if self.response_model else {}
        return {
            **{name: getattr(self, name) for name in _ARGUMENTS},
            **seed,
            "response_schema": schema,
            "options": self.run_options(),
        }

    def get_litellm_synthesis_kwargs(self) -> dict[str, Any]:
        """What shapes the teacher's answers, as it is sent to models that take it."""
        options = preset_options(self.preset, check_options(self.run_options()))
        sent = {"temperature": options.temperature, "max_tokens": options.teacher_max_tokens, **(options.litellm or {})}
        return {name: value for name, value in sent.items() if value is not None}

    def get_mlx_lm_cli_args(self) -> list[str]:
        """The arguments with which ``mlx_lm.lora`` would train alike, where they were set or the preset sets them.

        They are for reading and for moving on: this package's trainer takes them as checked values and runs no command line.
        """
        options = preset_options(self.preset, check_options(self.run_options()))
        told: list[str] = []
        for name in _TRAINER_TAKES:
            value = getattr(options, name)
            flag = f"--{_CLI_NAMES.get(name, name.replace('_', '-'))}"
            if value is True:
                told.append(flag)
            elif value not in (None, False):
                told += [flag, str(value)]
        for name, value in (options.mlx_lm or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                told += [f"--{name.replace('_', '-')}", str(value)]
        return told
