#!/usr/bin/env bash
# Builds a control plane into BIN: etcd, API server, controller manager, scheduler, kubectl, Helm, and kwok, which plays the
# kubelets; in the versions of go.mod beside this file. Then the custom resource definitions of the Prometheus operator and
# KEDA, and KEDA itself. Ten minutes of two cores for the first part and about as long for KEDA, once; 0.8 GB.
# Usage: build.sh BIN
set -euo pipefail
mkdir -p "$1"; bin=$(readlink -f "$1"); cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
keda=github.com/kedacore/keda/v2@v2.21.0
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0

wanted=$(cat go.mod go.sum build.sh | sha256sum)
[ "$(cat "$bin/built" 2> /dev/null)" = "$wanted" ] && exit
command -v go > /dev/null || { echo "Go 1.26 or newer is needed (go.dev)" >&2; exit 1; }
export CGO_ENABLED=0
flags=(-trimpath -buildvcs=false)

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
GOBIN=$bin go install "${flags[@]}" -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" tool
mv "$bin/server" "$bin/etcd"
stages=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
for file in "$stages"/node/fast/node-initialize.yaml "$stages"/node/heartbeat-with-lease/*lease.yaml "$stages"/pod/fast/pod-*.yaml; do
    echo ---
    cat "$file"
done > "$bin/stages.yaml"

folder() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
keda=$(cd / && folder "$keda"); operator=$(cd / && folder "$operator")
for file in "$keda"/config/crd/bases/*.yaml "$operator"/example/prometheus-operator-crd/*_{service,pod}monitors.yaml \
    "$operator"/example/prometheus-operator-crd/*_prometheusrules.yaml; do
    echo ---
    cat "$file"
done > "$bin/crds.yaml"

(cd "$keda" && go build "${flags[@]}" -ldflags "-s -w" -o "$bin/keda-operator" ./cmd/operator)
(cd "$keda" && go build "${flags[@]}" -ldflags "-s -w" -o "$bin/keda-adapter" ./cmd/adapter)
echo "$wanted" > "$bin/built"
