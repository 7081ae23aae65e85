"""Runs what isn't generation: slot, backend, another backend if that one fails, release.

Rule: a client's own fault is never retried, and a backend's failure always may be: nothing is sent
before the result is whole.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from reverie import correlation
from reverie.backends.base import Backend
from reverie.errors import (
    BackendError,
    ClientError,
    InsufficientQuota,
    InvalidRequest,
    Overloaded,
    RateLimitExceeded,
    ReverieError,
    WrongTask,
)
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.reservation import Reservation
from reverie.gateway.attempts import Attempts
from reverie.gateway.continuation import Continuation
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.purpose import require_task
from reverie.gateway.serving.served_models import ServedModel, ServedModels
from reverie.log import fields
from reverie.request import GenerateRequest
from reverie.tasks import Embeddings, EmbedRequest, R, Task, TaskRequest, TokenizeRequest

logger = logging.getLogger("reverie.relay")

_MAX_COUNTED = 64
"""Texts of one request whose tokens an engine is asked for, one after the other."""
_NEVER_BEGUN = GenerateRequest(model="", messages=[])
"""To ``Attempts`` a result is an answer of which nothing was sent yet."""


def model_for(models: ServedModels, name: str, task: Task) -> ServedModel:
    """The model with this name or alias. An empty one takes the default model if that is for this,
    else the first that is.

    Raises:
        ModelNotFound, WrongTask
    """
    model = models.find(name)
    if not name and model.settings.task != task:
        model = next((one for one in models.all if one.settings.task == task), model)
    require_task(model.settings, task)
    return model


def size_on(pool: Pool, request: TaskRequest[Any]) -> int:
    """The most tokens of all prompts of a request: each has to fit a context by itself."""
    return sum(map(pool.within_context, request.bounds))


class Admitted(NamedTuple):
    """A request's place in the ledger, and the most tokens that it may come to."""

    place: Reservation
    size: int


async def admit_task(
    admission: Admission,
    caller: Caller,
    model: ServedModel,
    request: TaskRequest[Any],
    record: RequestRecord,
) -> Admitted:
    """Reserve what a request may come to. Its bound is enough where that is within the limits;
    else an engine is asked for the size.

    The model is held by the caller, and loaded if its engine has to count.

    Raises:
        ReverieError: as ``Ledger.reserve`` and ``ask_any``.
    """
    size, estimate = size_on(model.pool, request), request.estimate
    try:
        return Admitted(await admission.admit_task(caller, model, size, estimate, record), size)
    except (RateLimitExceeded, InsufficientQuota) as refusal:
        counted = await _counted(model, request, caller) if refusal.by_size else size
        if counted >= size:
            raise
    place = await admission.admit_task(caller, model, counted, counted, record)
    return Admitted(place, counted)


async def _counted(model: ServedModel, request: TaskRequest[Any], caller: Caller) -> int:
    """The tokens of the texts by an engine, or at most, where none can count them or there are
    too many."""
    bounds = list(map(model.pool.within_context, request.bounds))
    if not isinstance(request, EmbedRequest) or len(bounds) > _MAX_COUNTED:
        return sum(bounds)
    for index, one in enumerate(request.inputs):
        if isinstance(one, str):
            question = TokenizeRequest(one, add_special=True)
            if not any(backend.can_run(question) for backend in model.pool.examples):
                break
            tokens = len((await ask_any(model, question, caller)).ids)
            bounds[index] = model.pool.within_context(tokens)
    return sum(bounds)


async def run_task(
    model: ServedModel, request: TaskRequest[R], record: RequestRecord, caller: Caller
) -> R:
    """The result, from whichever backend can give it. Cancelling this stops the engine.

    The model is held by the caller, and loaded for this if need be.

    Raises:
        InvalidRequest: more ``dimensions`` are wanted than there are.
        ReverieError: as ``Pool.acquire`` and ``Backend.run``.
    """
    pool = model.pool
    _require_dimensions(model, request)
    model.deployment.load_for_request()
    slot_request = SlotRequest(
        tokens=size_on(pool, request), key=caller.key_id, weight=caller.weight
    )
    attempts = Attempts(pool, Continuation(_NEVER_BEGUN), record, slot_request)
    while True:
        try:
            lease = await pool.acquire(attempts.slot_request)
        except ReverieError as error:
            raise attempts.unavailable(error) from None
        with lease:
            attempts.begin(lease)
            try:
                result = await lease.backend.run(request)
            except (BackendError, ClientError, Overloaded) as error:
                attempts.failed(lease, error)
                continue
            lease.on_batch()
            attempts.got_further()
            attempts.succeeded(lease)
        if isinstance(result, Embeddings):
            model.deployment.vector_length = len(result.vectors[0])
            _require_dimensions(model, request)
        return result


def _require_dimensions(model: ServedModel, request: TaskRequest[Any]) -> None:
    """Refuse a wish for more numbers than a vector has, as far as that is known."""
    length = model.deployment.vector_length
    wanted = request.dimensions if isinstance(request, EmbedRequest) else None
    if wanted is not None and length is not None and wanted > length:
        message = f"dimensions: This model's vectors have {length} numbers."
        raise InvalidRequest(message, param="dimensions")


async def ask_any(model: ServedModel, request: TaskRequest[R], caller: Caller) -> R:
    """The result from any backend, without a slot: for what costs an engine next to nothing.

    The model is held by the caller, and loaded for this if need be.

    Raises:
        WrongTask: no backend can be asked.
        ReverieError: as ``Pool.acquire`` and ``Backend.run``.
    """
    pool = model.pool
    if not any(backend.can_run(request) for backend in pool.examples):
        raise _unable(pool.examples[0])
    model.deployment.load_for_request()
    if not pool.ready:
        slot_request = SlotRequest(key=caller.key_id, weight=caller.weight)
        (await pool.acquire(slot_request)).release()
    failure: ReverieError | None = None
    for backend in [state.backend for state in pool.in_service]:
        if not (backend.ready and backend.can_run(request)):
            continue
        try:
            return await backend.run(request)
        except (BackendError, Overloaded) as error:
            failure = error
            logger.warning(
                "a backend could not be asked",
                extra=fields(
                    id=correlation.request_id(),
                    model=model.name,
                    backend=backend.name,
                    error=error.code,
                ),
            )
    raise failure or Overloaded("The model's backends aren't ready. Try again.", retry_after=1)


def require_able(model: ServedModel, request: TaskRequest[Any]) -> None:
    """Refuse what one of the model's backends can't be asked: any of them may get the request.

    Raises:
        WrongTask
    """
    for backend in model.pool.examples:
        if not backend.can_run(request):
            raise _unable(backend)


def _unable(backend: Backend) -> WrongTask:
    return WrongTask(
        f"This model's engine ({backend.kind}) can't be asked for this.", param="model"
    )
