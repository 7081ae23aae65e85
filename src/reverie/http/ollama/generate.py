"""``/api/chat`` and ``/api/generate``: answers, and models that are loaded or unloaded on request.

Rule: who asks for a model to be loaded is admitted as for an answer of no tokens. A model is
unloaded only where its operator lets it come and go (``warm = false``), and while nobody uses it.
"""

from __future__ import annotations

from msgspec.structs import replace

from reverie.errors import Forbidden
from reverie.gateway.accounts.kept_answers import StoredAnswer
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.connection.exchange import Headers
from reverie.http.dialects.ollama import OllamaEncoder
from reverie.http.frames import Job, Write
from reverie.http.generate import Generate
from reverie.http.replies import rate_headers
from reverie.pending import done

_NO_PROMPT = [{"role": "user", "content": ""}]
"""For the ledger: an engine can't be asked for the size of no message at all."""


class OllamaGenerate(Generate):
    """An ASGI application that answers one of the two routes."""

    async def _generate(self, job: Job, headers: Headers, write: Write) -> None:
        encoder = job.encoder
        if isinstance(encoder, OllamaEncoder) and encoder.move is not None:
            await self._move(job, encoder, headers, write)
        else:
            await super()._generate(job, headers, write)

    async def _move(self, job: Job, encoder: OllamaEncoder, headers: Headers, write: Write) -> None:
        """Load or unload the model, then say so.

        Raises:
            Forbidden: it must not be unloaded.
            ReverieError: as ``Admission.admit`` and ``Pool.acquire``.
        """
        request = replace(job.request, messages=_NO_PROMPT, max_tokens=1, prompt_counted=True)
        with job.model.deployment.held():
            reservation, _ = await self._admission.admit(
                job.caller, job.model, [request], job.record
            )
            assert not isinstance(reservation, StoredAnswer)
            if encoder.move == "load":
                await _load(job)
        if encoder.move == "unload":
            await _unload(job.model)
        job.record.outcome = "ok"
        headers += rate_headers(reservation.rate)
        await reservation.settle()
        await done(write(encoder.moved(stream=job.request.stream), True))


async def _load(job: Job) -> None:
    """Load the model, and wait until it can answer; its caller holds it meanwhile."""
    job.model.deployment.load_for_request()
    slot_request = SlotRequest(key=job.caller.key_id, weight=job.caller.weight)
    (await job.model.pool.acquire(slot_request)).release()


async def _unload(model: ServedModel) -> None:
    """Unload the model.

    Raises:
        Forbidden: it is to stay loaded, or somebody uses it.
    """
    on_demand = model.deployment.on_demand
    if on_demand is None or model.settings.warm:
        raise Forbidden(
            "This model is not loaded and unloaded on request: its operator keeps it as it is."
        )
    if not await on_demand.unload_if_free("request"):
        raise Forbidden("This model is in use, and stays loaded. Try again once it is idle.")
