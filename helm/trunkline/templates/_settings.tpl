{{- /* Where the pods see what the values name. */ -}}
{{- define "trunkline.secretsPath" -}}/etc/trunkline-secrets{{- end -}}

{{- /* The file or the name that the worker loads. */ -}}
{{- define "trunkline.modelSource" -}}
{{- $model := .Values.model -}}
{{- if eq $model.from "huggingFace" -}}
{{- $model.huggingFace.name -}}
{{- else if eq $model.from "path" -}}
{{- $model.path -}}
{{- else if eq $model.from "image" -}}
{{- printf "/model/%s" (ternary $model.image.path (base $model.image.path) $model.image.mount) -}}
{{- else -}}
{{- printf "/model/%s" (get $model $model.from).path -}}
{{- end -}}
{{- end -}}

{{- /* Files of a TLS secret as settings of a section: a prefix before ca_file, cert_file, key_file. */ -}}
{{- define "trunkline.tlsFiles" -}}
{{- range $setting, $key := dict "ca_file" .secret.caKey "cert_file" .secret.certKey "key_file" .secret.keyKey }}
{{- if and $.secret.name $key }}
  {{ $.prefix }}{{ $setting }}: {{ include "trunkline.secretsPath" $ }}/{{ $.folder }}/{{ $key }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Threads of the model step on a CPU: half of the pod's limit, as the worker takes them, else of its request. */ -}}
{{- define "trunkline.threads" -}}
{{- $resources := .Values.resources | default dict -}}
{{- with ($resources.limits | default dict).cpu | default ($resources.requests | default dict).cpu -}}
{{- $cpu := toString . -}}
{{- $cores := ternary (divf (trimSuffix "m" $cpu) 1000) (float64 $cpu) (hasSuffix "m" $cpu) -}}
{{- max 1 (divf $cores 2 | floor | int) -}}
{{- end -}}
{{- end -}}

{{- /* What the chart knows better than a settings file: addresses, files of secrets, the model, device and threads. */ -}}
{{- define "trunkline.chartSettings" -}}
telemetry:
  host: 0.0.0.0
  port: 9090
model:
  source: {{ include "trunkline.modelSource" . | quote }}
  {{- if not (hasKey (.Values.settings.model | default dict) "device") }}
  device: {{ ternary "cuda" "cpu" (gt (int .Values.gpu.count) 0) }}
  {{- end }}
  {{- if and (eq (int .Values.gpu.count) 0) (not (hasKey (.Values.settings.model | default dict) "threads")) }}
  {{- with include "trunkline.threads" . }}
  threads: {{ . }}
  {{- end }}
  {{- end }}
{{- with .Values.secrets }}
{{- if or .kafkaSasl.name .kafkaTls.name }}
kafka:
  {{- if .kafkaSasl.name }}
  sasl_password_file: {{ include "trunkline.secretsPath" $ }}/kafka-sasl/{{ .kafkaSasl.passwordKey }}
  {{- end }}
  {{- include "trunkline.tlsFiles" (dict "secret" .kafkaTls "folder" "kafka-tls" "prefix" "ssl_") }}
{{- end }}
{{- if or .redis.name .redisTls.name }}
state:
  {{- if .redis.name }}
  redis_password_file: {{ include "trunkline.secretsPath" $ }}/redis/{{ .redis.passwordKey }}
  {{- end }}
  {{- include "trunkline.tlsFiles" (dict "secret" .redisTls "folder" "redis-tls" "prefix" "redis_") }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The worker's settings file. */ -}}
{{- define "trunkline.settings" -}}
{{- $chart := include "trunkline.chartSettings" . | fromYaml -}}
{{- mergeOverwrite (deepCopy .Values.settings) $chart | toYaml -}}
{{- end -}}

{{- /* A variable from a key of a secret; nothing without a key. */ -}}
{{- define "trunkline.secretVariable" -}}
{{- if and .secret.name .key }}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret.name }}
      key: {{ .key }}
{{- end }}
{{- end -}}

{{- /* Variables of the worker that come from secrets. */ -}}
{{- define "trunkline.secretEnv" -}}
{{- $secrets := .Values.secrets -}}
{{- include "trunkline.secretVariable" (dict "secret" $secrets.kafkaSasl "key" $secrets.kafkaSasl.usernameKey "variable" "TRUNKLINE_KAFKA__SASL_USERNAME") }}
{{- include "trunkline.secretVariable" (dict "secret" $secrets.redis "key" $secrets.redis.usernameKey "variable" "TRUNKLINE_STATE__REDIS_USERNAME") }}
{{- if eq .Values.model.from "huggingFace" }}
{{- include "trunkline.secretVariable" (dict "secret" .Values.model.huggingFace.tokenSecret "key" .Values.model.huggingFace.tokenSecret.key "variable" "HF_TOKEN") }}
{{- end }}
{{- end -}}

{{- /* Secrets as files, each under a folder of its own. Takes a map of folder to secret. */ -}}
{{- define "trunkline.secretVolumes" -}}
{{- range $folder, $secret := .secrets }}
{{- if $secret.name }}
- name: {{ $folder }}
  secret:
    secretName: {{ $secret.name }}
    # Readable to fsGroup only.
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{- define "trunkline.secretMounts" -}}
{{- range $folder, $secret := .secrets }}
{{- if $secret.name }}
- name: {{ $folder }}
  mountPath: {{ include "trunkline.secretsPath" $ }}/{{ $folder }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}
