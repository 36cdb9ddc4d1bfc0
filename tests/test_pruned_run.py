"""A student that is cut in width learns from its teacher like any other: hidden states pass a projector, widths stay."""

from __future__ import annotations

from typing import Any

import kdtool
import transformers


def test_a_narrower_student_learns_from_its_teacher(recipe: dict[str, Any]) -> None:
    recipe |= {
        "student": {"use": "pruned", "layers": 3, "hidden": 48, "heads": 2, "feed_forward": 96},
        "control": False,
    }
    recipe["evaluators"] = {"perplexity": {"documents": 2, "characters": 200}}
    results = kdtool.run(recipe)
    facts = results.models["student"]
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.feed_forward) == (3, 48, 2, 1, 96)
    assert len(facts.copied_layers) == 3
    history = results.arms[0].histories["train"]
    assert history[-1].terms["ce"].value < history[0].terms["ce"].value
    assert history[0].terms["hidden"].value > 0
    (artifact,) = results.arms[0].artifacts
    model = transformers.AutoModelForCausalLM.from_pretrained(artifact.path, trust_remote_code=False)
    assert (model.config.hidden_size, model.config.head_dim, model.config.num_attention_heads) == (48, 16, 2)
