# Envoy with deploy/envoy/envoy.yaml as `configure` writes it for the network of compose.yaml.
FROM debian:bookworm-slim AS configure
COPY deploy/envoy /source
RUN sh /source/configure --listen 0.0.0.0:8080 --stats 0.0.0.0:9902 --ratelimit ratelimit:8081 --collector jaeger:4317 \
    --broker walcast-0:50051 --broker walcast-1:50051 --broker walcast-2:50051 >/envoy.yaml

FROM envoyproxy/envoy:v1.40.0
COPY --from=configure /envoy.yaml /etc/envoy/envoy.yaml
USER 65532:65532
EXPOSE 8080 9902
ENTRYPOINT ["envoy", "-c", "/etc/envoy/envoy.yaml", "--concurrency", "2", "--disable-hot-restart", "--drain-time-s", "20", "--log-level", "warn"]
