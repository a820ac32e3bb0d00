# One image for servers and workers. For GPUs build with a CUDA image that has Python 3.11 as BASE.
ARG BASE=python:3.11-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
RUN make setup
ENV PATH=/app/.venv/bin:$PATH
ENTRYPOINT ["/bin/sh", "-c"]
