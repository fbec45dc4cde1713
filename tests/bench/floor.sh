#!/bin/sh
# The unavoidable work of a rollout on one host, as plainly as a shell can do it: packages, unpack, environment, start,
# health. It checks nothing, could not be run twice, and is what tests/bench/rollout.py measures the rollout against.
#
# Usage: floor.sh pulsar ARCHIVE ADDRESS | floor.sh opal BUNDLE BROKER
set -eu
export DEBIAN_FRONTEND=noninteractive

wait_for() {
    until python3 -c "import urllib.request as r; r.urlopen('$1', timeout=5)" 2>/dev/null; do sleep 0.25; done
}

install_packages() {
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

case "$1" in
pulsar)
    install_packages openjdk-17-jre-headless
    useradd --system --home-dir /srv/floor --create-home floor
    tar -xzf "$2" -C /srv/floor --strip-components=1 --no-same-owner
    chown -R floor /srv/floor
    systemd-run --quiet --unit floor --uid floor --property WorkingDirectory=/srv/floor \
        --setenv JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64 \
        --setenv PULSAR_MEM='-Xms512m -Xmx512m -XX:MaxDirectMemorySize=256m' \
        /srv/floor/bin/pulsar standalone --no-functions-worker --no-stream-storage --advertised-address "$3"
    wait_for http://127.0.0.1:8080/admin/v2/brokers/health
    ;;
opal)
    install_packages git
    useradd --system --home-dir /srv/floor --create-home floor
    mkdir /srv/floor/bundle
    tar -xf "$2" -C /srv/floor/bundle
    export UV_SYSTEM_CERTS=true UV_NO_CACHE=true
    uv=/srv/floor/bundle/uv
    $uv venv --quiet --python /usr/bin/python3 /srv/floor/venv
    $uv pip install --quiet --no-deps --require-hashes --only-binary :all: --compile-bytecode \
        --python /srv/floor/venv/bin/python --requirements /srv/floor/bundle/requirements.txt
    $uv pip install --quiet --no-deps --no-index --python /srv/floor/venv/bin/python /srv/floor/bundle/*.whl
    systemd-run --quiet --unit floor --uid floor --property WorkingDirectory=/srv/floor \
        --property RuntimeDirectory=opal-server \
        --setenv OPAL_BROADCAST_URI="pulsar://$3:6650" --setenv OPAL_BROADCAST_CHANNEL_NAME=broadcast \
        --setenv OPAL_REPO_WATCHER_ENABLED=false --setenv HOME=/srv/floor \
        /srv/floor/venv/bin/python -m gunicorn --bind 0.0.0.0:7002 --workers 2 \
        --worker-class uvicorn.workers.UvicornWorker --config python:opal_backbone.gunicorn_conf opal_backbone.server:app
    wait_for http://127.0.0.1:7002/healthcheck
    ;;
esac
