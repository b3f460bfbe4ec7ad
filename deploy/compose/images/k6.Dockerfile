# k6 with the scripts of loadtests/k6, which look for the contract two folders above themselves.
FROM grafana/k6:1.1.0
COPY loadtests/k6 /walcast/loadtests/k6
COPY proto /walcast/proto
WORKDIR /walcast
ENTRYPOINT ["k6"]
