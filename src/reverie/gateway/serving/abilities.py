"""What a model can be asked for: found out by asking its backends, each of which must agree."""

from __future__ import annotations

from typing import Any

from reverie.errors import ClientError
from reverie.gateway.serving.served_models import ServedModel
from reverie.request import GenerateRequest

_QUESTION: dict[str, Any] = {"role": "user", "content": "Hi"}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def generates_text(model: ServedModel) -> bool:
    """True if it answers conversations."""
    return _takes(model, GenerateRequest(model="", messages=[_QUESTION]))


def takes_tools(model: ServedModel) -> bool:
    """True if it can be given tools."""
    return _takes(model, GenerateRequest(model="", messages=[_QUESTION], tools=[_TOOL]))


def sees_images(model: ServedModel) -> bool:
    """True if its messages may hold images."""
    message = {"role": "user", "content": [_IMAGE]}
    return _takes(model, GenerateRequest(model="", messages=[message]))


def _takes(model: ServedModel, request: GenerateRequest) -> bool:
    """True if each of its backends takes the request."""
    try:
        model.check(request)
    except ClientError:
        return False
    return True
