# The service of global rate limits with the rules of deploy/envoy. The tag is a commit: it has no releases.
FROM envoyproxy/ratelimit:3fb70258
COPY deploy/envoy/ratelimit/config /etc/ratelimit/config
USER 65532:65532
ENTRYPOINT ["/bin/ratelimit"]
