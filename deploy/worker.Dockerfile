# The transcription worker for NVIDIA GPUs (and CPUs, for 7 GB). Build from the repository root:
#   docker build -f deploy/worker.Dockerfile -t trunkline-worker .
# CUDA comes with PyTorch's packages, the driver from the host. For a build that can be repeated name the base by digest:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# The compiler is the base's, in whatever version that has; this stage only.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/trunkline
COPY deploy/worker.lock deploy/
RUN /opt/trunkline/bin/pip install --no-cache-dir --require-hashes -r deploy/worker.lock
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
ENV PATH=/opt/trunkline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
EXPOSE 9090
# For Docker; Kubernetes has probes of its own. Loading a model takes minutes the first time.
HEALTHCHECK --start-period=15m --interval=10s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('TRUNKLINE_TELEMETRY__PORT', 9090)}/healthz\")"]
ENTRYPOINT ["trunkline"]
CMD ["worker"]
