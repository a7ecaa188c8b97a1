"""The three Grafana dashboards, as code. `python -m deploy.dashboards` writes their JSON into the chart."""
