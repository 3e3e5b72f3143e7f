"""The page of a tuning: held-out loss and answers before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core.errors import DataError
from groundup.core.files import read_json, write_text
from groundup.core.metrics import read_jsonl
from groundup.recipes.report.folder import rows_of, table_of
from groundup.recipes.report.training import charts_of
from groundup.recipes.report.words import compact, decimal, duration, number, size
from groundup.recipes.report.write import page_template

REPORT = "report.html"


def write_tuning_report(work: Path) -> Path:
    """Write `report.html` from what tuning left in its work folder.

    Raises:
        DataError: when the folder holds no result of a tuning.
    """
    result = table_of(read_json(work / "tuning.json"))
    pairs = rows_of(read_json(work / "pairs.json"))
    forecast = table_of(read_json(work / "forecast.json")) if (work / "forecast.json").is_file() else {}
    if not result:
        raise DataError(f"{work / 'tuning.json'} holds no result: tune with  groundup sft  first")
    rows = [record for record in read_jsonl(work / "metrics.jsonl") if record.get("stage") == "sft"]
    page = {
        "name": str(result.get("name", work.name)),
        "parent": str(result.get("parent", "")),
        "tiles": _tiles(result, forecast),
        "charts": charts_of("sft", "Tuning", rows),
        "pairs": pairs,
        "summary": _summary(result, forecast),
    }
    path = work / REPORT
    write_text(path, page_template("tuning.html.j2").render(page))
    return path


def _tiles(result: dict[str, Any], forecast: dict[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    before, after = number(result.get("loss_before")), number(result.get("loss_after"))
    if after is not None:
        note = f"before: {decimal(before, 3)}" if before is not None else ""
        tiles.append(("held-out loss, nats per token", decimal(after, 3), note))
    predicted = number(forecast.get("seconds"))
    if number(result.get("seconds")) is not None:
        note = f"predicted {duration(predicted)}" if predicted is not None else ""
        tiles.append(("time of training", duration(result["seconds"]), note))
    if number(result.get("peak_bytes")):
        expected = number(forecast.get("peak_bytes"))
        note = f"predicted {size(expected)}" if expected is not None else ""
        tiles.append(("peak memory", size(result["peak_bytes"]), note))
    if number(result.get("tokens")) is not None:
        tiles.append(("trained tokens", compact(result["tokens"]), f"in {result.get('steps')} updates"))
    return tiles


def _summary(result: dict[str, Any], forecast: dict[str, Any]) -> str:
    parameters, count = number(forecast.get("parameters")), number(forecast.get("conversations"))
    what = f"{result.get('parent')} ({compact(parameters)} parameters)" if parameters else str(result.get("parent"))
    data = f"{int(count):,} conversations" if count is not None else "conversations"
    held = number(forecast.get("held_out"))
    rest = f"; {int(held):,} more were held out and only watched" if held else ""
    return f"{what} tuned on {data}{rest}."
