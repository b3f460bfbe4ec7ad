#!/usr/bin/env bash
# A person with grpcurl and nothing else: no proto file, everything by reflection.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
start_broker

rpc() { # METHOD JSON
  "$services/bin/grpcurl" -plaintext -max-time 30 -format-error -d "$2" "$SERVER" "$1"
}
curl_list() { "$services/bin/grpcurl" -plaintext -max-time 30 "$SERVER" "$@"; }
b64() { printf '%s' "$1" | base64 -w0; }

says "list names the service" "broker.Broker" curl_list list
for method in Publish Subscribe Fetch; do
  says "list names $method" "broker.Broker.$method" curl_list list broker.Broker
done
says "describe shows the request" "int32 expirationSeconds = 3;" curl_list describe broker.PublishRequest
says "describe shows the stream" "returns ( stream .broker.MessageResponse )" curl_list describe broker.Broker
says "health of the node" '"status": "SERVING"' rpc grpc.health.v1.Health/Check '{}'
says "health of the service" '"status": "SERVING"' rpc grpc.health.v1.Health/Check '{"service": "broker.Broker"}'
says "health of a stranger" '"code": 5' rpc grpc.health.v1.Health/Check '{"service": "stranger"}'

publish() { rpc broker.Broker/Publish "{\"subject\": \"$1\", \"body\": \"$(b64 "$2")\", \"expirationSeconds\": $3}"; }
fetch() { rpc broker.Broker/Fetch "{\"subject\": \"$1\", \"id\": $2}"; }

says "the first id is 1" '"id": 1' publish curl "hello, wörld" 600
says "the second id is 2" '"id": 2' publish curl "again" 0
says "fetch returns the body" "\"body\": \"$(b64 "hello, wörld")\"" fetch curl 1
says "fetch of fire and forget" "message with id provided is expired" fetch curl 2
says "its code is INVALID_ARGUMENT" '"code": 3' fetch curl 2
says "its reason is EXPIRED" "EXPIRED" fetch curl 2
for id in 0 -1 3 2147483647; do
  says "fetch of id $id" "message with id provided is not valid or never published" fetch curl "$id"
done
says "its reason is NEVER_PUBLISHED" "NEVER_PUBLISHED" fetch curl 3
says "an empty publish names the subject" "subject" rpc broker.Broker/Publish '{}'
says "an empty publish is INVALID_ARGUMENT" '"code": 3' rpc broker.Broker/Publish '{}'
says "a negative expiration is named" "expirationSeconds" publish curl x -1
says "a control character names the subject" "subject" rpc broker.Broker/Publish '{"subject": "a\nb"}'
says "an unknown method is refused" "does not" rpc broker.Broker/Nothing '{}'

# A subscription ends with the deadline of the client, and has shown what was published meanwhile.
"$services/bin/grpcurl" -plaintext -v -max-time 4 -d '{"subject": "live"}' "$SERVER" broker.Broker/Subscribe \
  >"$scratch/live" 2>&1 &
listener=$!
for _ in $(seq 100); do
  grep -q "Response headers received" "$scratch/live" && break
  sleep 0.05
done
check "subscribe answers with headers at once" grep "Response headers received" "$scratch/live"
for word in one two three; do publish live "$word" 0 >/dev/null; done
wait "$listener" || true
delivered=$(grep -o '"body": "[^"]*"' "$scratch/live" | cut -d'"' -f4 | while read -r body; do
  printf '%s ' "$(printf '%s' "$body" | base64 -d)"
done)
check "subscribe delivers in order" test "$delivered" = "one two three "

says "metrics know the calls" "method_count" curl -fs "http://$ADMIN/metrics"
stop_broker
exit $((failures > 0))
