# The image of a service: docker build --build-arg APP=auth .
# Of an app's worker, with ffmpeg and what contains it: docker build --build-arg APP=video --target worker .
# Of the demo: docker build --build-arg APP=video --build-arg DEMO=yes --target demo .
#
# An app that needs Debian packages names them in apps/<app>/packages, and its Python then sees theirs: torch for CPUs,
# for one, is python3-torch there, and is not in the app's pyproject.toml.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*

# --- what the code needs: from the lock, and no more than this app ----------------------------------------------------
FROM python AS needs
ARG APP
# Of the demo (local/demo.py) instead, where it says "yes": its clients.
ARG DEMO
# The last is a pattern, because that file need not be there.
COPY requirements.txt local/images/requirements.py apps/${APP}/package[s] /needs/
RUN cd /needs && touch packages \
    && if [ -n "${DEMO}" ]; then set -- gql httpx rich tuspy; else set -- kinora-kit "kinora-${APP}"; fi \
    && python3 requirements.py "$@" <requirements.txt >app.txt

FROM python AS venv
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
COPY --from=needs /needs/packages /needs/app.txt /needs/
# Wheels only: there is no compiler. What is compiled does not carry the time of its source, to be the same each time.
# How this machine reaches a package index, where that takes more than the network, is given as a secret: `pip.conf`,
# which may name the other one, `certificates`, as /run/secrets/certificates.
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

# --- what runs: what changes least, first -----------------------------------------------------------------------------
FROM python AS runtime
# Before RUN: of all instructions, buildah's cache tells only those apart by their arguments, and what comes after them.
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
# No user of the base: nothing in the image is this one's, and its root may be read-only.
USER 10001:10001
# By bash, which every Debian has: Python takes 150 ms of CPU to start, and Docker starts the next check while one that
# timed out still runs, so that on a busy machine they would pile up.
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

# For docker-compose.yml, which mounts local/: with the layers of the worker, which has ffmpeg, too.
FROM worker-runtime AS demo
COPY --from=venv /venv /venv
ENTRYPOINT ["python", "/kinora/local/demo.py"]

# What is built where no target is named.
FROM service
