# The server for NVIDIA GPUs of compute capability 8.0 and up, with the demo model inside. Without a GPU it serves on the CPU.
#   docker build -f docker/cuda.Dockerfile -t openelm-server:cuda .
#   docker run --rm --gpus all -p 8000:8000 openelm-server:cuda
#   docker run --rm --gpus all -p 8000:8000 -v /path/to/OpenELM-270M:/model:ro openelm-server:cuda serve --model /model --tokenizer /model
# Built to its end by buildah over a stand-in of the base image; not over the real one, and not run on a GPU (benches/RESULTS.md).
ARG CUDA=13.0.1
ARG UBUNTU=24.04
ARG RUST=1.95.0

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU} AS build
ARG RUST
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cuda-cudart-dev-13-0 cuda-nvcc-13-0 curl g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/opt/cargo RUSTUP_HOME=/opt/rustup PATH=/opt/cargo/bin:/usr/local/cuda/bin:$PATH
RUN curl -fsSL https://static.rust-lang.org/rustup/rustup-init.sh | sh -s -- -y --profile minimal --default-toolchain ${RUST}
WORKDIR /src
COPY . .
RUN cargo build --release --locked --features cuda --bin openelm-server

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
LABEL org.opencontainers.image.title="openelm-server" \
      org.opencontainers.image.description="An OpenAI-compatible inference server for Apple's OpenELM language models, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# The driver comes from the host; cuBLAS is opened when a device is.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcublas-13-0 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 openelm && useradd --uid 65532 --gid 65532 --no-create-home openelm
COPY --from=build /src/target/release/openelm-server /usr/local/bin/
ENV OPENELM_HOST=0.0.0.0 \
    OPENELM_PORT=8000
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/openelm-server", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/openelm-server"]
CMD ["serve"]
