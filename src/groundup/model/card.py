"""The model card that is written where the caller gives none. Imports no torch."""

from __future__ import annotations

import json
from pathlib import PurePath
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

{_origin(lineage)}

| | |
|---|---|
{table}

Use it: `groundup {verb} {name}`{"" if kind == OWN_TYPE else ", or load it with transformers"}.

## Where it comes from

```json
{json.dumps(lineage, indent=2, ensure_ascii=False)}
```

{_caution(lineage)}
"""


def _foreign_parent(lineage: dict[str, Any]) -> str | None:
    """The name of the model of others that this one was made from, or None where it was trained here from nothing."""
    parent = lineage.get("parent")
    if not isinstance(parent, dict) or parent.get("lineage"):
        return None
    return str(parent.get("name") or PurePath(str(parent.get("folder", ""))).name or "another model")


def _origin(lineage: dict[str, Any]) -> str:
    parent = _foreign_parent(lineage)
    if parent is None:
        return "A language model made with groundup."
    return f"Made with groundup from `{parent}`. The licence of that model holds for this one too."


def _caution(lineage: dict[str, Any]) -> str:
    if _foreign_parent(lineage) is None:
        return "A small model that was trained on little text: it makes things up, and its answers are no advice."
    return "What the model it was made from is good for, and what it is not, stands in that model's own card."
