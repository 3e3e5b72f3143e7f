"""The section on doing it again: commands, settings, versions, lineage."""

from __future__ import annotations

import shlex
from typing import Any

from groundup.recipes.report.folder import Record, RunFiles, flatten, table_of
from groundup.recipes.report.tables import Table, facts_table
from groundup.recipes.report.words import clean, label, number

# In the lineage, but shown elsewhere on the page.
_SHOWN_ELSEWHERE = ("settings", "execution", "versions")


def settings_of(files: RunFiles) -> Record:
    return table_of(files.object("plan.json").get("settings"))


def source_of(files: RunFiles) -> str:
    """The source that the run read, empty when the plan does not say."""
    source = table_of(settings_of(files).get("corpus")).get("source")
    return source if isinstance(source, str) else ""


def seed_of(files: RunFiles) -> int | None:
    """The run's seed, None when the plan does not say."""
    seed = settings_of(files).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def repeatable_settings(files: RunFiles) -> Record:
    """The settings, with what was chosen for pretraining in the place of `auto`."""
    settings = settings_of(files)
    execution = table_of(settings.get("execution"))
    chosen = {key: planned if used is None else used for key, (planned, used, _) in execution_of(files).items()}
    settled = {
        key: chosen[key] if value in (None, "auto") and key in chosen else value for key, value in execution.items()
    }
    return {**settings, "execution": settled} if settled else settings


def execution_of(files: RunFiles) -> dict[str, tuple[Any, Any, Any]]:
    """How the arithmetic ran: key -> (as planned, in pretraining, in tuning), None where a file does not say."""
    tables = [
        table_of(files.object(name).get("execution"))
        for name in ("plan.json", "base/lineage.json", "chat/lineage.json")
    ]
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: (tables[0].get(key), tables[1].get(key), tables[2].get(key)) for key in keys}


def given_command(files: RunFiles) -> str:
    """The command of the run, from what was asked for; empty when the plan does not say."""
    asked = files.object("plan.json").get("asked")
    if not isinstance(asked, dict):
        return ""
    overrides = table_of(asked.get("overrides"))
    source = table_of(overrides.get("corpus")).get("source")
    words = ["groundup", "speedrun", *([source] if isinstance(source, str) else []), "--name", files.name]
    budget = number(asked.get("budget_s"))
    if budget is not None:
        words += ["--budget", f"{budget:g}s"]
    for name, value in flatten(overrides):
        if name != "corpus.source":
            words += _option(name, value)
    return _shell(words)


def _option(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        table, point, field = option.rpartition(".")
        return [f"--{option}" if value else f"--{table}{point}no-{field}"]
    return [f"--{option}", str(value)]


def settings_command(files: RunFiles) -> str:
    """The command that takes every value of the run from a file, so that no dial or probe chooses again."""
    return _shell(["groundup", "speedrun", "--config", "settings.json", "--name", f"{files.name}-again"])


def chat_command(files: RunFiles) -> str:
    return _shell(["groundup", "chat", f"{files.place}/chat"])


def generate_command(files: RunFiles) -> str:
    return _shell(["groundup", "generate", f"{files.place}/base", "The function returns"])


def _shell(words: list[str]) -> str:
    return shlex.join(clean(word).replace("\n", "\\n") for word in words)


def versions_of(files: RunFiles) -> list[tuple[str, str]]:
    """Versions that the last model directory names."""
    for name in ("chat", "base"):
        versions = table_of(files.object(f"{name}/lineage.json").get("versions"))
        if versions:
            return [(label(key), label(value)) for key, value in versions.items()]
    return []


def lineage_tables(files: RunFiles) -> list[Table]:
    """Where each of the two models comes from."""
    tables = []
    for name in ("base", "chat"):
        lineage = files.object(f"{name}/lineage.json")
        if lineage:
            caption = f"Lineage of the {name} model; {name}/lineage.json has all of it."
            tables.append(facts_table(caption, lineage, skip=_SHOWN_ELSEWHERE))
    return tables
