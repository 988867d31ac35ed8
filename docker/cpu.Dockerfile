# The service on a CPU, x86-64 or aarch64.
#   docker build -f docker/cpu.Dockerfile -t onboard:cpu .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# The base's own Python: versions follow the base's digest, so none is named here.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY docker/requirements/cpu.txt /src/requirements.txt
RUN python3 -m venv /opt/onboard \
 && /opt/onboard/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r /src/requirements.txt
# setuptools makes the package; it stays in this stage.
COPY docker/requirements/make.txt /src/make.txt
RUN python3 -m venv /opt/make \
 && /opt/make/bin/pip install --no-cache-dir --require-hashes -r /src/make.txt
COPY pyproject.toml README.md LICENSE /src/
COPY engines /src/engines
COPY ground /src/ground
COPY onboard /src/onboard
COPY products /src/products
COPY telemetry /src/telemetry
COPY trainer /src/trainer
WORKDIR /src
RUN /opt/make/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/onboard/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/onboard/bin/pip uninstall -y pip setuptools

FROM ${BASE} AS fly
LABEL org.opencontainers.image.title="onboard" \
      org.opencontainers.image.description="Land-cover maps made aboard: GeoTIFF scenes in, class maps out" \
      org.opencontainers.image.licenses="MIT"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 libexpat1 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 onboard \
 && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin onboard \
 && install -d -o 10001 -g 10001 /data
COPY --from=build /opt/onboard /opt/onboard
ENV PATH=/opt/onboard/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ONBOARD_DATA_DIR=/data \
    ENGINES_CACHE_DIR=/data \
    ONBOARD_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive is enough: a restart mends neither an engine that is being built nor a scene that waits.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-m", "onboard.alive"]
ENTRYPOINT ["onboard"]
CMD ["serve"]
