# One image for the prediction job (its entry point) and for the HTTP service (`python -m scripts.serve`).
#   docker build --build-arg VERSION=0.1.0 --build-arg GIT_COMMIT="$(git rev-parse HEAD)" -t mlsys .
# Both base images have Debian bookworm's Python 3.12 at one path, so what is installed in the first runs in the second.
# They are arguments so that a mirror, or a digest, can be named.
ARG BUILDER_IMAGE=ghcr.io/astral-sh/uv:python3.12-bookworm-slim
ARG RUNTIME_IMAGE=python:3.12-slim-bookworm

# What changes least comes first, in a stage and a layer of its own: it stays until the lock file changes.
FROM ${BUILDER_IMAGE} AS dependencies
# The image's Python and no other; bytecode now, not at each cold start; the cache is on another file system.
ENV UV_PYTHON_DOWNLOADS=0 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_CACHE_DIR=/var/cache/uv \
    UV_NO_DEFAULT_GROUPS=1
WORKDIR /app
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=pyproject.toml,target=/app/pyproject.toml \
    --mount=type=bind,source=uv.lock,target=/app/uv.lock \
    uv sync --locked --group serve --no-install-project

# mlsys and scripts, in a folder beside: a new version of the image is a layer of 5 MB, not of all dependencies again.
FROM dependencies AS code
COPY pyproject.toml README.md ./
COPY mlsys mlsys
COPY scripts scripts
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --no-deps --target /app/lib .

FROM ${RUNTIME_IMAGE} AS runtime
# Two arenas: with more, one for each of gRPC's threads, glibc keeps what was freed, and a long run grows.
ENV PATH=/app/.venv/bin:/app/lib/bin:$PATH \
    PYTHONPATH=/app/lib \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    SERVE_HOST=0.0.0.0
# All of it belongs to root: the job cannot change its own code.
COPY --from=dependencies /app/.venv /app/.venv
COPY --from=code /app/lib /app/lib
WORKDIR /app
# By number: nothing needs a name, a home or a shell.
USER 10001:10001
# What differs for each build comes last.
ARG VERSION=0.0.0
ARG GIT_COMMIT=unknown
ENV MLSYS_GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title=mlsys \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${GIT_COMMIT}
ENTRYPOINT ["python", "-m", "scripts.predict"]
