"""What a model is for: requests for anything else are refused, and told what it does."""

from __future__ import annotations

from reverie.errors import WrongTask
from reverie.settings import ModelSettings
from reverie.tasks import Task

_DOES: dict[Task, str] = {
    "generate": "generates text (/v1/chat/completions)",
    "embed": "turns text into vectors (/v1/embeddings)",
    "rerank": "ranks documents (/v1/rerank)",
}
_ASKED: dict[Task, str] = {
    "generate": "generate text",
    "embed": "turn text into vectors",
    "rerank": "rank documents",
}


def require_task(model: ModelSettings, task: Task) -> None:
    """Refuse what the model isn't for.

    Raises:
        WrongTask
    """
    if model.task != task:
        raise WrongTask(
            f"The model {model.name} {_DOES[model.task]}. It can't {_ASKED[task]}.", param="model"
        )
