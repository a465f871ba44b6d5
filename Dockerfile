# syntax=docker/dockerfile:1
# The image: one static program, its certificate authorities, and its SBOM.
#
#   docker build --build-arg VERSION=0.1.0 --tag registry.example.com/eventexport:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 …        cross-compiled, without emulation
#   make image                                                      without a daemon (docs/image.md)
#
# `make image` builds the program outside and uses the stage from `FROM scratch` on, so both images are equal.

# Pin a digest (rust:…@sha256:…) for a reproducible build.
ARG RUST_IMAGE=rust:1.95-bookworm

FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS build
ARG TARGETARCH
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates jq musl-tools python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY image/tools image/
RUN sh image/tools /usr/local "${TARGETARCH:-}"
COPY Cargo.toml Cargo.lock LICENSE ./
COPY .cargo .cargo
COPY image image
COPY src src
ARG REVISION=
# Cargo requires the files of the test and the benchmark in Cargo.toml, even if they are not built.
RUN mkdir -p tests/it bench && touch tests/it/main.rs bench/parts.rs \
 && sh image/rootfs "${TARGETARCH:-$(dpkg --print-architecture)}" /rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="eventexport" \
      org.opencontainers.image.description="Exports Activity Tracker audit events to object storage, with proof that nothing is missing" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs/ /
# Numeric, so that the kubelet can check that it is not root. The root file system may be read-only.
USER 65532:65532
ENTRYPOINT ["/eventexport"]
