# Prometheus with the rules of deploy/prometheus.
FROM prom/prometheus:v2.42.0
COPY deploy/prometheus/walcast.alerts.yml deploy/prometheus/walcast.recording.yml /etc/prometheus/
COPY deploy/prometheus/prometheus.compose.yml /etc/prometheus/prometheus.yml
