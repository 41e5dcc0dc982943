# One image for MLflow, the code server, the web server and the daemon of docker-compose.yml.
FROM python:3.11-slim

# Volumes: products and artefacts in /state, Dagster's logs in /dagster/storage. Its settings are mounted into /dagster.
RUN useradd --create-home --uid 1000 lvm \
    && install --directory --owner=lvm --group=lvm /state /dagster /dagster/storage
ARG PIP_EXTRA_INDEX_URL=""

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE dagster.yaml workspace.yaml ./
COPY lvm_pipeline ./lvm_pipeline
RUN pip install --no-cache-dir --constraint constraints.txt .

USER lvm
