{{- define "trunkline.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What never changes in a release: a StatefulSet's selector cannot. */ -}}
{{- define "trunkline.instance" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "trunkline.selector" -}}
{{ include "trunkline.instance" . }}
app.kubernetes.io/component: worker
{{- end -}}

{{- define "trunkline.chartLabels" -}}
{{ include "trunkline.instance" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* The chart's, commonLabels over them, `labels` over both. Takes root, and perhaps component and labels. */ -}}
{{- define "trunkline.labels" -}}
{{- $chart := include "trunkline.chartLabels" .root | fromYaml -}}
{{- with .component }}
{{- $_ := set $chart "app.kubernetes.io/component" . }}
{{- end -}}
{{- mergeOverwrite $chart (.root.Values.commonLabels | default dict) (.labels | default dict) | toYaml -}}
{{- end -}}

{{- /* "repository:tag", or "repository@digest" where a digest is given. Takes an image and a tag to fall back on. */ -}}
{{- define "trunkline.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.workerImage" -}}
{{- include "trunkline.image" (dict "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}

{{- /* Of what speaks to Kafka as a client; the worker's image can do that, too. */ -}}
{{- define "trunkline.clientImage" -}}
{{- if .Values.client.image.repository -}}
{{- include "trunkline.image" (dict "image" .Values.client.image "tag" .Chart.AppVersion) -}}
{{- else -}}
{{- include "trunkline.workerImage" . -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "trunkline.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /*
Replicas, where the chart sets them. With autoscaling the scaler does. But what Helm has set and then leaves out, the API
server sets to 1, so it stays what it is until the scaler has changed it; where Helm merges by itself (Helm 3), for ever.
*/ -}}
{{- define "trunkline.replicas" -}}
{{- if .Values.autoscaling.enabled -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "trunkline.name" .) -}}
{{- $ours := false -}}
{{- range ($there.metadata | default dict).managedFields -}}
{{- if hasPrefix "helm" .manager -}}
{{- $ours = or $ours (eq .operation "Update") (hasKey (get .fieldsV1 "f:spec") "f:replicas") -}}
{{- end -}}
{{- end -}}
{{- if $ours -}}
{{- max $there.spec.replicas .Values.autoscaling.minReplicas -}}
{{- end -}}
{{- else -}}
{{- .Values.replicas -}}
{{- end -}}
{{- end -}}

{{- /* Workers beyond the partitions would stand idle. */ -}}
{{- define "trunkline.maxReplicas" -}}
{{- min .Values.autoscaling.maxReplicas .Values.topics.partitions -}}
{{- end -}}

{{- /* PromQL selector of this release's workers, whichever monitor scrapes them. */ -}}
{{- define "trunkline.series" -}}
{{- printf "{namespace=\"%s\",pod=~\"%s-[0-9]+\"}" .Release.Namespace (include "trunkline.name" .) -}}
{{- end -}}
