# The service on an x86-64 machine with an NVIDIA GPU (driver 560 or newer, NVIDIA Container Toolkit).
#   docker build -f docker/x86-gpu.Dockerfile -t onboard:gpu .
ARG DEVEL=nvidia/cuda:12.6.3-devel-ubuntu22.04
ARG BASE=nvidia/cuda:12.6.3-base-ubuntu22.04
ARG TENSORRT=10.3.0.26-1+cuda12.5

# PyCUDA is built against the image's own CUDA, in a stage of its own: compilers do not fly.
FROM ${DEVEL} AS pycuda
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev g++ \
 && rm -rf /var/lib/apt/lists/*
COPY docker/requirements/pycuda-make.txt docker/requirements/pycuda.txt /src/
# curand has no use here, and the image that flies may lack its library: then PyCUDA would not load. PyCUDA reads its
# settings from this file, none from the environment. libcuda itself comes with the driver, at run time.
ENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs
RUN printf "CUDA_ENABLE_CURAND = False\nCUDA_ROOT = '/usr/local/cuda'\n" > /etc/aksetup-defaults.py \
 && python3 -m venv /opt/make \
 && /opt/make/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r /src/pycuda-make.txt \
 && /opt/make/bin/pip wheel --no-cache-dir --require-hashes --no-build-isolation --no-deps \
      --wheel-dir /wheels -r /src/pycuda.txt

FROM ${DEVEL} AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY docker/requirements/gpu.txt /src/requirements.txt
# TensorRT's Python package is the system's, not the registry's: the environment sees the system's packages.
RUN python3 -m venv --system-site-packages /opt/onboard \
 && /opt/onboard/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r /src/requirements.txt
COPY --from=pycuda /wheels /wheels
RUN /opt/onboard/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
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
 && /opt/onboard/bin/pip install --no-cache-dir --no-deps --no-index /wheels/onboard_landcover-*.whl \
 && /opt/onboard/bin/pip uninstall -y pip setuptools

FROM ${BASE} AS fly
LABEL org.opencontainers.image.title="onboard" \
      org.opencontainers.image.description="Land-cover maps made aboard: GeoTIFF scenes in, class maps out" \
      org.opencontainers.image.licenses="MIT"
ARG TENSORRT
# The same version in every part: engines of one TensorRT run on no other.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 libexpat1 \
      "libnvinfer10=${TENSORRT}" "libnvinfer-plugin10=${TENSORRT}" "libnvonnxparsers10=${TENSORRT}" \
      "python3-libnvinfer=${TENSORRT}" \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 onboard \
 && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin --groups video onboard \
 && install -d -o 10001 -g 10001 /data
COPY --from=build /opt/onboard /opt/onboard
ENV PATH=/opt/onboard/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ONBOARD_DATA_DIR=/data \
    ENGINES_CACHE_DIR=/data \
    ONBOARD_HOST=0.0.0.0 \
    ONBOARD_MODEL=landcover-fp16 \
    ONBOARD_BACKEND=tensorrt
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start builds the engine, for minutes; the service answers meanwhile and says "starting".
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-m", "onboard.alive"]
ENTRYPOINT ["onboard"]
CMD ["serve"]
