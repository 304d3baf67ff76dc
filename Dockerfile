# A service:                                docker build --build-arg APP=auth .
# A worker, with ffmpeg and its sandboxing: docker build --build-arg APP=video --target worker .
# The demo:                                 docker build --build-arg APP=video --build-arg DEMO=yes --target demo .
#
# Debian packages that an app needs are listed in apps/<app>/packages; its venv then sees their Python modules. For
# instance, torch for CPUs is python3-torch in that file, instead of a dependency in the app's pyproject.toml.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*

# --- this app's dependencies, from the lock file ----------------------------------------------------------------------
FROM python AS needs
ARG APP
# "yes": the client libraries of local/demo.py instead.
ARG DEMO
# package[s]: a pattern may match no file.
COPY requirements.txt local/images/requirements.py apps/${APP}/package[s] /needs/
RUN cd /needs && touch packages \
    && if [ -n "${DEMO}" ]; then set -- gql httpx rich tuspy; else set -- kinora-kit "kinora-${APP}"; fi \
    && python3 requirements.py "$@" <requirements.txt >app.txt

FROM python AS venv
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
COPY --from=needs /needs/packages /needs/app.txt /needs/
# Wheels only, because there is no compiler. Bytecode is invalidated by hash, not by time, for reproducible images.
# A proxy or mirror of the package index is configured with the build secrets `pip.conf` and `certificates`, to which
# pip.conf may refer as /run/secrets/certificates.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=certificates \
    python3 -m venv --without-pip $([ ! -s /needs/packages ] || echo --system-site-packages) /venv \
    && pip --python /venv install --no-cache-dir --no-compile --ignore-installed --only-binary :all: \
        --require-hashes --requirement /needs/app.txt \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /venv

# --- the code ---------------------------------------------------------------------------------------------------------
FROM python AS code
ARG APP
COPY platform/src apps/${APP}/src /app/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app

# --- runtime images; layers that rarely change come first -------------------------------------------------------------
FROM python AS runtime
# ARG before RUN: in buildah, build arguments are part of the cache key of RUN and what follows it only.
ARG APP
COPY --from=needs /needs/packages /app/packages
RUN [ ! -s /app/packages ] || { \
        apt-get update \
        && xargs apt-get install --yes --no-install-recommends </app/packages \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*; }
ENV APP=${APP} \
    PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="kinora-${APP}" \
    org.opencontainers.image.source="https://github.com/kinora-platform/kinora" \
    org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim"
# A user that owns no file in the image; the root filesystem may be read-only.
USER 10001:10001
# bash, because Python takes 150 ms of CPU to start, and Docker starts the next check while a timed-out one still runs:
# on a busy machine they would pile up.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["bash", "-c", "\
exec 3<>/dev/tcp/127.0.0.1/$KINORA_HTTP_PORT && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 \
&& read -rt 4 _ status _ <&3 && [ $status = 200 ]"]

FROM runtime AS service
COPY --from=venv /venv /venv
COPY --from=code /app /app
CMD exec python -m kinora_${APP}.main

FROM runtime AS worker-runtime
USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libseccomp2 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*
USER 10001:10001

FROM worker-runtime AS worker
COPY --from=venv /venv /venv
COPY --from=code /app /app
CMD exec python -m kinora_${APP}.worker

# For docker-compose.yml, which mounts local/. Shares the worker's layers, because it needs ffmpeg, too.
FROM worker-runtime AS demo
COPY --from=venv /venv /venv
ENTRYPOINT ["python", "/kinora/local/demo.py"]

# The default target.
FROM service
