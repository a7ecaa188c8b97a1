# The producer and the topics command: no torch, small. Build from the repository root:
#   docker build -f deploy/producer.Dockerfile -t trunkline-producer .
FROM python:3.11-slim-bookworm AS build
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

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home trunkline
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["trunkline"]
CMD ["--help"]
