"""Everything that can make a worker refuse to start: settings that contradict the model, the store or each other."""

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from producer.reach import Unreachable, reach
from worker.engine.interface import Engine, Mode
from worker.ingest import topics
from worker.ingest.reader import Reader
from worker.settings import KafkaSettings, Settings, StateSettings
from worker.state.checkpoint import Fingerprint
from worker.state.device import DeviceStore
from worker.state.redis import RedisStore
from worker.state.store import StateStore

log = logging.getLogger(__name__)


class StartError(Exception):
    """The worker cannot start; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to step, the mode of streams that ask for none, and what its checkpoints fit."""

    engine: Engine
    mode: Mode
    fingerprint: Fingerprint


def load_engine(settings: Settings) -> Loaded:
    """Takes long. Raises StartError, ModelUnavailable, UnsupportedModel."""
    import torch

    from worker.engine.build import build
    from worker.engine.model import load
    from worker.state.fingerprint import fingerprint

    chosen, batching = settings.model, settings.batching
    torch.set_num_threads(chosen.threads or half_of_the_cores())
    began = time.monotonic()
    model = load(chosen.source, chosen.device, chosen.id)
    engine = build(model, batching.slots, chosen.engine, chosen.dtype, batching.max_frames)
    mode = _mode(settings, engine)
    engine.warm_up(mode, batching.max_batch)
    # reads all weights: only where a store keeps what it is compared with
    made_for = Fingerprint("", "") if settings.state.store == "device" else fingerprint(engine, model)
    log.info("model %s loaded in %.1f s", engine.info.model_id, time.monotonic() - began)
    return Loaded(engine, mode, made_for)


def half_of_the_cores() -> int:
    """Threads of the model step where the settings name none; at least one.

    The event loop needs a core, and step threads that wait for each other on a busy one cost more than they bring.
    """
    from joblib import cpu_count  # it knows affinity and the container's quota

    cores: int = cpu_count()
    return max(1, cores // 2)


async def load_unless(stop: asyncio.Event, settings: Settings) -> Loaded:
    """Load the model; a stop in that time ends the process at once, since nothing is owned or owed yet."""
    loading = asyncio.create_task(asyncio.to_thread(load_engine, settings))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        log.info("told to stop while loading the model")
        logging.shutdown()
        os._exit(0)  # an orderly exit would wait for the thread that loads
    stopping.cancel()
    return loading.result()


async def join_unless(stop: asyncio.Event, reader: Reader, settings: KafkaSettings) -> bool:
    """Join the group; False if told to stop meanwhile. The reader is still to be left. Raises StartError."""
    joining = asyncio.create_task(reader.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([joining, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not joining.done():
        log.info("told to stop while joining the group")
        joining.cancel()
        await asyncio.wait([joining])
        return False
    try:
        joining.result()
    except (TimeoutError, KafkaError) as error:
        await reader.leave()
        why = "joining it takes too long" if isinstance(error, TimeoutError) else f"it cannot be joined: {error}"
        raise StartError(f"Kafka at {settings.bootstrap_servers}, group {settings.group!r}: {why}") from None
    return True


async def check_topics(settings: KafkaSettings, client: dict[str, Any]) -> None:
    """Raises StartError."""
    deadline = settings.request_timeout_ms / 1000
    try:
        await reach(client, deadline)
        async with asyncio.timeout(deadline):
            problems = await topics.check(settings.topics, **client)
    except Unreachable as error:
        raise StartError(f"Kafka at {settings.bootstrap_servers} cannot be used: {error}") from None
    except (TimeoutError, OSError) as error:
        raise StartError(f"Kafka at {settings.bootstrap_servers} does not answer: {error}") from None
    except Exception as error:
        raise StartError(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    if problems:
        raise StartError("the topics are not as the worker needs them:\n" + "\n".join(f"  - {p}" for p in problems))


def make_store(settings: StateSettings) -> StateStore:
    """Raises StartError."""
    if settings.store == "device":
        return DeviceStore()
    try:
        return RedisStore(
            settings.redis_url,
            username=settings.redis_username,
            password=settings.password,
            ca_file=settings.redis_ca_file,
            cert_file=settings.redis_cert_file,
            key_file=settings.redis_key_file,
            ttl_s=settings.ttl_s,
            timeout_s=settings.timeout_ms / 1000,
        )
    except (ValueError, OSError) as error:
        raise StartError(f"state.redis_url: {error}") from None


def _mode(settings: Settings, engine: Engine) -> Mode:
    chosen, info = settings.model, engine.info
    decoder = info.decoders[0] if chosen.decoder == "auto" else chosen.decoder
    if chosen.look_ahead not in info.look_aheads:
        have = ", ".join(map(str, info.look_aheads))
        raise StartError(f"model.look_ahead is {chosen.look_ahead}: {info.model_id} has {have}")
    if decoder not in info.decoders:
        have = ", ".join(info.decoders)
        raise StartError(f"model.decoder is {decoder!r}: {info.model_id} has {have}")
    return Mode(chosen.look_ahead, decoder)
