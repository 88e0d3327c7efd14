# syntax=docker/dockerfile:1

# Build: the server, with nothing but the Rust toolchain.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
COPY proto proto
RUN cargo build --release --locked

# The default backbone, fetched and verified once, so that a container starts without a network.
FROM python:3.12-slim-bookworm AS backbone
COPY --from=build /src/target/release/trunkline /usr/local/bin/trunkline
WORKDIR /work
COPY backbones/minilm-mtpf backbones/minilm-mtpf
RUN trunkline backbone fetch --cache-dir /cache

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/trunkline --create-home trunkline
COPY --from=build /src/target/release/trunkline /usr/local/bin/trunkline
COPY --from=backbone --chown=trunkline /cache /var/lib/trunkline/cache
COPY --chown=trunkline adapters /var/lib/trunkline/adapters
# What the default backbone is restored from, if the cache is another.
COPY --chown=trunkline backbones/minilm-mtpf /var/lib/trunkline/backbones/minilm-mtpf
COPY proto /usr/share/trunkline/proto
COPY openapi /usr/share/trunkline/openapi
USER trunkline
WORKDIR /var/lib/trunkline
# The port is open to whoever the container's network lets in, so the server wants a key for each door, or a word that it is meant:
# TRUNKLINE_ADMIN_KEY (or TRUNKLINE_ADMIN_LISTEN=127.0.0.1:8081, which leaves admin to `docker exec`), and TRUNKLINE_INFER_KEY (or
# TRUNKLINE_ALLOW_ANONYMOUS=true). With its key admin is on the same port; without either the container ends with exit code 2 and says so.
ENV TRUNKLINE_LISTEN=0.0.0.0:8080 \
    TRUNKLINE_CACHE_DIR=/var/lib/trunkline/cache \
    TRUNKLINE_ADAPTERS_DIR=/var/lib/trunkline/adapters \
    TRUNKLINE_STATE_DIR=/var/lib/trunkline/state \
    TRUNKLINE_LOG_FORMAT=json
VOLUME ["/var/lib/trunkline/adapters", "/var/lib/trunkline/state"]
EXPOSE 8080
# The server is PID 1 itself, without a shell or an init before it: it hears the stop from its first moment on, and drains.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["trunkline"]
CMD ["serve"]
