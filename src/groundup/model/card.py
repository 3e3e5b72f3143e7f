"""The model card that is written where the caller gives none. Imports no torch."""

from __future__ import annotations

import json
from typing import Any

from groundup.core.errors import ModelError
from groundup.model.config import TransformerConfig
from groundup.model.counts import count_parameters
from groundup.model.hf_config import OWN_TYPE, model_type


def default_card(name: str, config: TransformerConfig, lineage: dict[str, Any], *, has_template: bool) -> str:
    """Return a README.md: what the model is, how to use it, where it comes from.

    Args:
        name: of the directory.
        config: of the model.
        lineage: content of lineage.json.
        has_template: the model takes conversations.
    """
    kind = model_type(config)
    try:
        size = f"{count_parameters(config).total:,}"
    except ModelError:
        size = "see the weights"
    library = "groundup" if kind == OWN_TYPE else "transformers"
    verb = "chat" if has_template else "generate"
    rows = {
        "architecture": kind,
        "parameters": size,
        "layers": config.num_hidden_layers,
        "hidden size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "longest sequence": f"{config.max_position_embeddings} tokens",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: {library}
pipeline_tag: text-generation
tags: [groundup]
---

# {name}

A language model made with groundup.

| | |
|---|---|
{table}

Use it: `groundup {verb} {name}`{"" if kind == OWN_TYPE else ", or load it with transformers"}.

## Where it comes from

```json
{json.dumps(lineage, indent=2, ensure_ascii=False)}
```

A small model that was trained on little text: it makes things up, and its answers are no advice.
"""
