{{- /* Where a model that is a file comes from: /model, read-only for the worker. */ -}}
{{- define "trunkline.modelVolumes" -}}
{{- $model := .Values.model -}}
{{- if eq $model.from "persistentVolumeClaim" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ $model.persistentVolumeClaim.name }}
    readOnly: true
{{- else if and (eq $model.from "image") $model.image.mount }}
- name: model
  image:
    reference: {{ $model.image.reference | quote }}
    pullPolicy: {{ $model.image.pullPolicy }}
{{- else if has $model.from (list "image" "initContainer") }}
- name: model
  emptyDir: {}
{{- end }}
{{- end -}}

{{- define "trunkline.modelMounts" -}}
{{- $model := .Values.model -}}
{{- if has $model.from (list "image" "persistentVolumeClaim" "initContainer") }}
- name: model
  mountPath: /model
  readOnly: true
{{- else if and (eq $model.from "huggingFace") $model.huggingFace.cache.enabled }}
- name: model-cache
  mountPath: /model-cache
{{- end }}
{{- end -}}

{{- define "trunkline.modelInitContainer" -}}
{{- $model := .Values.model -}}
{{- if and (eq $model.from "image") (not $model.image.mount) }}
- name: model
  image: {{ $model.image.reference | quote }}
  imagePullPolicy: {{ $model.image.pullPolicy }}
  command: ["cp", {{ printf "/%s" $model.image.path | quote }}, {{ printf "/model/%s" (base $model.image.path) | quote }}]
  {{- with $model.image.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: /model
{{- else if eq $model.from "initContainer" }}
{{- with $model.initContainer }}
- name: model
  image: {{ .image | quote }}
  imagePullPolicy: {{ .pullPolicy }}
  {{- with .command }}
  command:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .args }}
  args:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: /model
    - name: tmp
      mountPath: /tmp
{{- end }}
{{- end }}
{{- end -}}
