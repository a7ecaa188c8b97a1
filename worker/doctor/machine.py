"""What a worker needs beside Kafka: the store, the model, the device, the compiled operations."""

import asyncio
import secrets
import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

from worker.doctor.finding import Finding, error, ok, skipped, warning
from worker.engine.interface import ModelUnavailable, UnsupportedModel
from worker.settings import ModelSettings, Settings, StateSettings
from worker.starting import StartError, load_engine, make_store
from worker.state.store import StoreUnavailable

PROBE_BYTES = 100_000  # a small checkpoint


async def store(settings: StateSettings, retention_s: float | None) -> list[Finding]:
    """The state store, by a key of our own that is put, got and deleted. `retention_s`: of the audio topic."""
    if settings.store == "device":
        return [skipped("state store", "state.store is device: a restart reads calls from their first record")]
    try:
        made = make_store(settings)
    except StartError as wrong:
        return [error("state store", str(wrong), "mend the setting")]
    key, data = f"{settings.key_prefix}doctor:{secrets.token_hex(8)}", secrets.token_bytes(PROBE_BYTES)
    began = time.monotonic()
    try:
        await made.put(key, data)
        back = await made.get(key)
        await made.delete([key])
    except StoreUnavailable as reason:
        return [error("state store", str(reason), _store_remedy(str(reason), settings))]
    finally:
        await made.close()
    if back != data:
        return [error("state store", "what was put is not got back", "is another program using this key prefix?")]
    took = 1000 * (time.monotonic() - began)
    found = [ok("state store", f"a checkpoint was put, got and deleted in {took:.0f} ms")]
    if retention_s is not None and 0 <= settings.ttl_s < retention_s:
        found.append(
            warning(
                "state store",
                f"state.ttl_s is {settings.ttl_s} s, less than the {retention_s:g} s that audio is kept: a call can "
                "outlive its checkpoint, and is then replayed",
                f"set state.ttl_s to more than {retention_s:g}",
            )
        )
    return found


def _store_remedy(said: str, settings: StateSettings) -> str:
    if "permission" in said.lower() or "NOPERM" in said:
        user = settings.redis_username or "default"
        return f"`ACL SETUSER {user} ~{settings.key_prefix}* +set +get +unlink +ping`"
    if "uthentication required" in said or "username-password" in said:
        return "see state.redis_username and state.redis_password"
    return "see state.redis_url and state.redis_*; without it calls go on, but a restart replays them from the start"


def device(settings: ModelSettings) -> Finding:
    """Takes seconds: torch is imported."""
    import torch

    from worker.engine.model import choose_device

    try:
        chosen = choose_device(settings.device)
    except ModelUnavailable as reason:
        count = torch.cuda.device_count()
        return error("device", str(reason), f"{count} CUDA devices are seen here; see model.device and the driver")
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        name = torch.cuda.get_device_name(chosen)
        return ok("device", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    text = f"the model runs on {chosen}" + ("" if settings.device != "auto" else ", since there is no CUDA here")
    return warning("device", text, "enough for tens of calls; more want a GPU")


def operations(settings: ModelSettings) -> Finding:
    """The engine's compiled ones."""
    from worker.engine import native
    from worker.engine.model import choose_device

    what = "operations"
    try:
        used = (choose_device(settings.device).type, settings.engine, settings.dtype) == ("cpu", "fast", "float32")
    except ModelUnavailable:  # said already
        used = False
    if not used:
        return skipped(what, "compiled ones are for the fast engine in float32 on the CPU")
    if not native.supported():
        return skipped(what, f"compiled ones are for {native.FOR}; on this processor PyTorch's are used")
    path = native.library()
    if native.loaded():
        return ok(what, f"{path.name} is loaded")
    if path.exists():
        return warning(what, f"{path} cannot be loaded; PyTorch's are slower", f"delete it, and `{native.COMMAND}`")
    return warning(what, "they are not compiled; PyTorch's are slower", f"`{native.COMMAND}`, with a C++ compiler")


def model(settings: ModelSettings) -> Finding:
    """What the file says of itself; the model is not loaded."""
    path = Path(settings.source)
    if not path.is_file():
        if path.suffix == ".nemo" or settings.source.startswith((".", "/")):
            return error("model", f"there is no file {settings.source!r}", "see model.source")
        return skipped("model", f"{settings.source!r} is a Hugging Face name; --load-model fetches it")
    try:
        encoder = _configuration(path)["encoder"]
    except (OSError, tarfile.TarError, KeyError, TypeError, yaml.YAMLError) as reason:
        return error("model", f"{settings.source!r} is no NeMo model: {reason}", "see model.source")
    style, contexts = encoder.get("att_context_style"), encoder.get("att_context_size")
    contexts = contexts if contexts and isinstance(contexts[0], list) else [contexts]
    if style not in ("chunked_limited", "regular") or not contexts or min(contexts[0] or [-1]) < 0:
        return error(
            "model", f"it is no streaming model (style {style!r}, context {contexts})", "see worker/engine/README.md"
        )
    have = [right for _, right in contexts]
    if settings.look_ahead not in have:
        listed = ", ".join(map(str, have))
        return error("model", f"model.look_ahead is {settings.look_ahead}, and it has {listed}", "choose one of them")
    size = path.stat().st_size / 2**20
    return ok("model", f"{path.name}, {size:.0f} MiB, {style}, look-ahead {settings.look_ahead}; --load-model tries it")


async def loaded(settings: Settings) -> Finding:
    """Load the model and make one step, as a worker does. Takes half a minute and more."""
    began = time.monotonic()
    try:
        engine = (await asyncio.to_thread(load_engine, settings)).engine
    except (StartError, ModelUnavailable, UnsupportedModel) as reason:
        return error("model", str(reason), "see model.*")
    except Exception as reason:  # out of the device's memory, say
        return error("model", f"{type(reason).__name__}: {reason}", "see model.* and batching.*")
    took = time.monotonic() - began
    return ok("model", f"{engine.info.model_id} was loaded and stepped with {engine.slots} slots in {took:.0f} s")


def _configuration(path: Path) -> Any:
    with tarfile.open(path) as archive:
        for member in archive:
            if Path(member.name).name == "model_config.yaml":
                file = archive.extractfile(member)
                assert file is not None
                return yaml.safe_load(file)
    raise KeyError("it holds no model_config.yaml")
