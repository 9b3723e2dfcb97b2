# The server for CPUs with the demo model inside. Nothing but the binary and the four libraries it needs.
#   docker build -t openelm-server .
#   docker run --rm -p 8000:8000 openelm-server
#   docker run --rm -p 8000:8000 -v /path/to/OpenELM-270M:/model:ro openelm-server serve --model /model --tokenizer /model
ARG RUST_IMAGE=rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin openelm-server
# The file system of the image: the binary, its loader and libraries, a user.
RUN mkdir -p /image/etc /image/usr/local/bin \
    && cp target/release/openelm-server /image/usr/local/bin/ \
    && ldd target/release/openelm-server | grep -o '/[^ ]*' | xargs -I{} cp --parents --dereference {} /image/ \
    && echo 'openelm:x:65532:65532::/:/sbin/nologin' > /image/etc/passwd \
    && echo 'openelm:x:65532:' > /image/etc/group

FROM scratch
LABEL org.opencontainers.image.title="openelm-server" \
      org.opencontainers.image.description="An OpenAI-compatible inference server for Apple's OpenELM language models" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /image/ /
ENV OPENELM_HOST=0.0.0.0 \
    OPENELM_PORT=8000
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# The image has no shell and no curl: the binary asks /readyz itself. It sees OPENELM_PORT, but no flag of the server.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/openelm-server", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/openelm-server"]
CMD ["serve"]
