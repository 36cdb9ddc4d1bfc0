"""An adapter's card: its base model, its licences, and the lines that open both."""

from __future__ import annotations

from pathlib import Path

import kdtool
import peft
from kdtool_model_card import model_card

__all__ = ["adapter_card"]


def adapter_card(run: kdtool.RunInfo, student: kdtool.ModelFacts, config: peft.LoraConfig) -> str:
    """Return the adapter's card in Markdown; `config` names its base model."""
    base = str(config.base_model_name_or_path)
    stored = (
        f"This folder contains only the adapter (LoRA, rank {config.r}, alpha {config.lora_alpha}), in PEFT's format; "
        f"its base model is `{base}`."
    )
    use = f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")
```"""
    on_hub = "" if not base or Path(base).is_absolute() else base  # hubs refuse a card whose base model is a path
    return model_card(run, student, stored=stored, library="peft", use=use, base=on_hub)
