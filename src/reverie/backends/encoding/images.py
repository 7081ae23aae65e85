"""Which images an engine is sent.

Rule: this gateway fetches no image. An engine is told to fetch one only where its operator allows
it, since it does so from its own network, whatever a client names.
"""

from __future__ import annotations

from reverie.errors import UnsupportedParameter
from reverie.prompt_bounds import images_in
from reverie.request import GenerateRequest
from reverie.settings import BackendKind, BackendSettings


def check(request: GenerateRequest, kind: BackendKind, settings: BackendSettings | None) -> None:
    """Refuse images that an engine isn't declared to see.

    Args:
        settings: those of the engine; None if it is embedded.

    Raises:
        UnsupportedParameter: naming the first message that has one.
    """
    for index, message in enumerate(request.messages):
        for url in images_in(message):
            if settings is None or not settings.vision:
                reason = f"This model's engine ({kind}) does not see images."
            elif not (settings.image_urls or url.startswith("data:")):
                reason = "Images by http(s) URL are not fetched here. Send a data: URL."
            else:
                continue
            raise UnsupportedParameter(reason, param=f"messages.{index}.content")
