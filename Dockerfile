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

# --- dependencies, from the lock file ---------------------------------------------------------------------------------
FROM python AS pip
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
COPY requirements.txt local/images/requirements.py /needs/
# Wheels only, because there is no compiler.
ENV PIP_INSTALL="pip --python /venv install --no-cache-dir --no-compile --only-binary :all: --require-hashes" \
    COMPILE="python3 -m compileall -q --invalidation-mode unchecked-hash"

# Those of the kit: one layer that all services share. Bytecode is invalidated by hash, not by time, for reproducible
# images. A proxy or mirror of the package index is configured with the build secrets `pip.conf` and `certificates`, to
# which pip.conf may refer as /run/secrets/certificates.
FROM pip AS kit
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=certificates \
    python3 -m venv --without-pip /venv \
    && python3 /needs/requirements.py kinora-kit </needs/requirements.txt >/needs/kit.txt \
    && $PIP_INSTALL --requirement /needs/kit.txt \
    && $COMPILE /venv

# The app's own.
FROM kit AS own
ARG APP
# "yes": the client libraries of local/demo.py instead.
ARG DEMO
# package[s]: a pattern may match no file, if another one does.
COPY local/images/requirements.py apps/${APP}/package[s] /needs/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=certificates \
    touch /needs/packages \
    && if [ -n "${DEMO}" ]; then set -- gql httpx rich tuspy; else set -- "kinora-${APP}"; fi \
    && python3 /needs/requirements.py "$@" --without kinora-kit </needs/requirements.txt >/needs/own.txt \
    && mkdir /own \
    && { [ ! -s /needs/own.txt ] || $PIP_INSTALL --no-deps --target /own --requirement /needs/own.txt; } \
    && $COMPILE /own \
    && if [ -s /needs/packages ]; then sed -i 's/^\(include-system-site-packages =\).*/\1 true/' /venv/pyvenv.cfg; fi

# --- the code ---------------------------------------------------------------------------------------------------------
FROM python AS code
ARG APP
COPY platform/src apps/${APP}/src /app/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app

# --- runtime images; layers that rarely change come first -------------------------------------------------------------
FROM python AS runtime
COPY --from=kit /venv /venv
# ARG after what the images share: in buildah, build arguments are part of the cache key of RUN and what follows it.
ARG APP
COPY --from=own /needs/packages /app/packages
RUN [ ! -s /app/packages ] || { \
        apt-get update \
        && xargs apt-get install --yes --no-install-recommends </app/packages \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*; }
ENV APP=${APP} \
    PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/own \
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
COPY --from=own /own /own
COPY --from=own /venv/pyvenv.cfg /venv/
COPY --from=code /app /app
CMD exec python -m kinora_${APP}.main

FROM runtime AS worker-runtime
USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libseccomp2 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*
USER 10001:10001

FROM worker-runtime AS worker
COPY --from=own /own /own
COPY --from=own /venv/pyvenv.cfg /venv/
COPY --from=code /app /app
CMD exec python -m kinora_${APP}.worker

# For docker-compose.yml, which mounts local/. Shares the worker's layers, because it needs ffmpeg, too.
FROM worker-runtime AS demo
COPY --from=own /own /own
ENTRYPOINT ["python", "/kinora/local/demo.py"]

# The default target.
FROM service
