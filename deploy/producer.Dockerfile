# Producer, `tail` and `topics`: no torch, small. Build from the repository root:
#   docker build -f deploy/producer.Dockerfile -t trunkline-producer .
# For a build that can be repeated name the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/trunkline
COPY deploy/producer.lock deploy/
RUN /opt/trunkline/bin/pip install --no-cache-dir --require-hashes -r deploy/producer.lock
COPY pyproject.toml README.md LICENSE ./
COPY wire wire
COPY producer producer
COPY worker worker
COPY trunkline trunkline
RUN /opt/trunkline/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
RUN useradd --uid 10001 --create-home trunkline
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
# Commands that end by themselves: their exit code says how they fared, and there is no server to ask.
HEALTHCHECK NONE
ENTRYPOINT ["trunkline"]
CMD ["--help"]
