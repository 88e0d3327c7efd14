#!/usr/bin/env bash
# Prints deploy/prometheus/rules.yml as the operator wants it, so that there is one text: rule.sh [NAMESPACE] | kubectl apply -f -
set -euo pipefail

cat <<END
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: trunkline
  namespace: ${1:-default}
  labels: { app: trunkline }
spec:
END
sed 's/^\(.\)/  \1/' "$(dirname "$0")/../../prometheus/rules.yml"
