# An engine, the image walcast:0.1.0 and a binary `$walcast` beside it, for `make image-check` and `make k8s-node-check`. Sourced, never run. Uses the engine that
# `docker` reaches, or starts one of its own below target/image, and stops it at the end of the script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
image_folder=$PWD/target/image
mkdir -p "$image_folder"
engine=

stop_engine() {
  [ -n "$engine" ] || return 0
  kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null || true
  umount "$image_folder/exec/netns/default" 2>/dev/null || true
}

start_engine() {
  trap stop_engine EXIT
  if ! docker version >/dev/null 2>&1; then
    export DOCKER_HOST=unix://$image_folder/docker.sock
    if ! docker version >/dev/null 2>&1; then
      echo "starting an engine in $image_folder"
      dockerd --data-root "$image_folder/data" --exec-root "$image_folder/exec" --pidfile "$image_folder/docker.pid" -H "$DOCKER_HOST" \
        --storage-driver overlay2 >"$image_folder/dockerd.log" 2>&1 &
      engine=$!
      for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
      docker version >/dev/null || { tail -3 "$image_folder/dockerd.log"; exit 1; }
    fi
  fi
  # buildx is not everywhere; the Dockerfiles need nothing of it.
  export COMPOSE_DOCKER_CLI_BUILD=0
  docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
}

# images NAME...: those that are not there are pulled; where no registry is in reach, images of what this machine has stand in for them.
images() {
  local name
  for name; do
    docker image inspect "$name" >/dev/null 2>&1 || timeout 120 docker pull -q "$name" 2>/dev/null ||
      tests/image/stand-ins "$image_folder/stand-ins" "$name" || exit 1
  done
}

build_walcast() {
  local started=$SECONDS
  # shellcheck disable=SC2046 # a name is a word
  images $(sed -n 's/^FROM \([^ ]*:[^ ]*\).*/\1/p' deploy/docker/Dockerfile)
  echo "building walcast:0.1.0"
  docker build --network host -f deploy/docker/Dockerfile -t walcast:0.1.0 --build-arg "REVISION=$(git rev-parse HEAD)" \
    --build-arg "CREATED=$(git log -1 --format=%cI)" . >"$image_folder/build.log" 2>&1 || { tail -20 "$image_folder/build.log"; exit 1; }
  echo "built in $((SECONDS - started)) s"
}

walcast=${BROKER_BIN:-$PWD/target/debug/walcast}
[ -x "$walcast" ] || cargo build --locked --bin walcast
start_engine
build_walcast
