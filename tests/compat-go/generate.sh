#!/usr/bin/env bash
# Writes the Go code of both protos again: the original contract (tests/compat-go) and today's (loadtests/mainjob).
# Only needed when a proto changes; the result is committed. The protos carry no go_package, so it is given here.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/services/generate
python3 -m venv "$tools"
"$tools/bin/pip" install -q 'grpcio-tools==1.76.0'
GOBIN="$PWD/$tools/bin" GOFLAGS=-p=2 go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN="$PWD/$tools/bin" GOFLAGS=-p=2 go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

generate() { # proto folder, module folder, package
  "$tools/bin/python" -m grpc_tools.protoc -I "$1" \
    --plugin="protoc-gen-go=$tools/bin/protoc-gen-go" --plugin="protoc-gen-go-grpc=$tools/bin/protoc-gen-go-grpc" \
    --go_out="$2/brokerpb" --go_opt=paths=source_relative,"Mbroker.proto=$3" \
    --go-grpc_out="$2/brokerpb" --go-grpc_opt=paths=source_relative,"Mbroker.proto=$3" broker.proto
}
generate tests/compat-go/proto tests/compat-go walcast.example/compat/brokerpb
generate proto loadtests/mainjob walcast.example/mainjob/brokerpb
