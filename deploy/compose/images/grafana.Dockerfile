# Grafana with the dashboards of grafana/.
FROM grafana/grafana:10.1.10
COPY grafana/provisioning /etc/grafana/provisioning
COPY grafana/dashboards /dashboards
