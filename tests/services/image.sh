#!/usr/bin/env bash
# The image and compose.yaml with a real engine (`make image-check`). Uses the engine that `docker` reaches, or starts one of its own below target/image and
# stops it at its end. Base images are pulled; where no registry is in reach, images of what this machine has stand in for them (tests/image/stand-ins).
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/target/image
mkdir -p "$folder"
walcast=${BROKER_BIN:-$PWD/target/debug/walcast}
[ -x "$walcast" ] || cargo build --locked --bin walcast
export COMPOSE_DOCKER_CLI_BUILD=0
engine=

stop_engine() {
  [ -n "$engine" ] || return 0
  kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null || true
  umount "$folder/exec/netns/default" 2>/dev/null || true
}
trap stop_engine EXIT

if ! docker version >/dev/null 2>&1; then
  export DOCKER_HOST=unix://$folder/docker.sock
  if ! docker version >/dev/null 2>&1; then
    echo "starting an engine in $folder"
    dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid" -H "$DOCKER_HOST" \
      --storage-driver overlay2 >"$folder/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
    docker version >/dev/null || { tail -3 "$folder/dockerd.log"; exit 1; }
  fi
fi
# buildx is not everywhere; the Dockerfiles need nothing of it.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

# Every base that the images here are made of, and every image that compose.yaml takes as it is, but for what has no stand-in.
for name in $(sed -n 's/^FROM \([^ ]*:[^ ]*\).*/\1/p' deploy/docker/Dockerfile deploy/compose/images/*.Dockerfile) \
  $(sed -n 's/^ *image: \([a-z].*\)/\1/p' deploy/compose/compose.yaml); do
  case $name in walcast*) continue ;; *grafana/grafana* | cassandra*) echo "left out: $name" && continue ;; esac
  docker image inspect "$name" >/dev/null 2>&1 || timeout 120 docker pull -q "$name" 2>/dev/null || tests/image/stand-ins "$folder/stand-ins" "$name"
done

echo "building walcast:0.1.0"
started=$SECONDS
docker build --network host -f deploy/docker/Dockerfile -t walcast:0.1.0 \
  --build-arg "REVISION=$(git rev-parse HEAD)" --build-arg "CREATED=$(git log -1 --format=%cI)" . >"$folder/build.log" 2>&1 ||
  { tail -20 "$folder/build.log"; exit 1; }
echo "built in $((SECONDS - started)) s"
target/services/venv/bin/python tests/image/check.py "$walcast"
