# The transcription worker for CPUs only. Build from the repository root:
#   docker build -f deploy/worker-cpu.Dockerfile -t trunkline-worker:cpu .
# PyPI's PyTorch for Linux has CUDA in it; that without comes from PyTorch's own index, in the version of the lock but not by
# the lock's hashes. Everything else is installed by hash.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What that index appends to its versions; empty for an index that does not.
ARG TORCH_LABEL=+cpu
WORKDIR /src
# The compiler is the base's, in whatever version that has; this stage only.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/trunkline
COPY deploy/worker.lock deploy/
RUN /opt/trunkline/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
    "torch==$(sed -n 's/^torch==\([^ ]*\).*/\1/p' deploy/worker.lock)$TORCH_LABEL"
RUN awk '/^[^ ]/ { kept = !/^(torch==|triton==|cuda-toolkit==|nvidia-)/ } kept' deploy/worker.lock > deploy/cpu.lock \
    && /opt/trunkline/bin/pip install --no-cache-dir --no-deps --require-hashes -r deploy/cpu.lock
COPY pyproject.toml README.md LICENSE ./
COPY wire wire
COPY producer producer
COPY worker worker
COPY trunkline trunkline
# Then the engine's own operations for processors; whether they are used is seen where the worker runs.
RUN /opt/trunkline/bin/pip install --no-cache-dir --no-deps . \
    && /opt/trunkline/bin/python -P -m worker.engine.native --any-processor

FROM ${BASE}
RUN useradd --uid 10001 --create-home trunkline
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 9090
# For Docker; Kubernetes has probes of its own. Loading a model takes minutes the first time.
HEALTHCHECK --start-period=15m --interval=10s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('TRUNKLINE_TELEMETRY__PORT', 9090)}/healthz\")"]
ENTRYPOINT ["trunkline"]
CMD ["worker"]
