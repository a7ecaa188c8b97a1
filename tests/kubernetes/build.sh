#!/usr/bin/env bash
# Builds a control plane into BIN: etcd, API server, controller manager, scheduler, kubectl, Helm, and kwok, which plays the
# kubelets; in the versions of go.mod beside this file. Then the custom resource definitions of the Prometheus operator and
# KEDA. Ten minutes of two cores, once; 0.5 GB. With KEDA=1 KEDA itself, too, which is larger than all of the rest.
# Usage: [KEDA=1] build.sh BIN
set -euo pipefail
mkdir -p "$1"; bin=$(readlink -f "$1"); cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
keda=github.com/kedacore/keda/v2@v2.21.0
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0

wanted="$(cat go.mod go.sum build.sh | sha256sum) KEDA=${KEDA:-}"
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

if [ -n "${KEDA:-}" ]; then
    for program in operator adapter; do
        (cd "$keda" && go build "${flags[@]}" -ldflags "-s -w" -o "$bin/keda-$program" "./cmd/$program")
    done
fi
echo "$wanted" > "$bin/built"
