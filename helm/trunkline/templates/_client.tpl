{{- /* The secrets of what speaks to Kafka as a client: its own, else the worker's. */ -}}
{{- define "trunkline.clientSecrets" -}}
{{- $secrets := .Values.secrets -}}
kafka-sasl:
  {{- toYaml (ternary $secrets.clientSasl $secrets.kafkaSasl (ne $secrets.clientSasl.name "")) | nindent 2 }}
kafka-tls:
  {{- toYaml (ternary $secrets.clientTls $secrets.kafkaTls (ne $secrets.clientTls.name "")) | nindent 2 }}
{{- end -}}

{{- /* The KAFKA_ variables of `trunkline topics`, `produce` and `tail`. */ -}}
{{- define "trunkline.clientEnv" -}}
{{- $kafka := .Values.settings.kafka -}}
{{- $secrets := include "trunkline.clientSecrets" . | fromYaml -}}
{{- $sasl := index $secrets "kafka-sasl" -}}
{{- $folder := include "trunkline.secretsPath" . -}}
- name: KAFKA_BOOTSTRAP_SERVERS
  value: {{ $kafka.bootstrap_servers | quote }}
- name: KAFKA_SECURITY_PROTOCOL
  value: {{ $kafka.security_protocol | default "PLAINTEXT" }}
- name: HOME
  value: /tmp
{{- if $sasl.name }}
{{- with $kafka.sasl_mechanism }}
- name: KAFKA_SASL_MECHANISM
  value: {{ . }}
{{- end }}
- name: KAFKA_SASL_PASSWORD_FILE
  value: {{ $folder }}/kafka-sasl/{{ $sasl.passwordKey }}
{{- include "trunkline.secretVariable" (dict "secret" $sasl "key" $sasl.usernameKey "variable" "KAFKA_SASL_USERNAME") }}
{{- if and $kafka.sasl_username (not $sasl.usernameKey) }}
- name: KAFKA_SASL_USERNAME
  value: {{ $kafka.sasl_username | quote }}
{{- end }}
{{- end }}
{{- with index $secrets "kafka-tls" }}
{{- if .name }}
{{- range $variable, $key := dict "KAFKA_SSL_CA_FILE" .caKey "KAFKA_SSL_CERT_FILE" .certKey "KAFKA_SSL_KEY_FILE" .keyKey }}
{{- if $key }}
- name: {{ $variable }}
  value: {{ $folder }}/kafka-tls/{{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A pod's spec but for its container's command and mounts, which are given. */ -}}
{{- define "trunkline.clientPod" -}}
{{- $root := .root -}}
{{- with .root.Values -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- toYaml .podSecurityContext | nindent 2 }}
{{- with .client.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .client.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ $.name }}
    image: {{ include "trunkline.clientImage" $root | quote }}
    imagePullPolicy: {{ .image.pullPolicy }}
    {{- $.command | nindent 4 }}
    env:
      {{- include "trunkline.clientEnv" $root | nindent 6 }}
    {{- with .client.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- toYaml .containerSecurityContext | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- with include "trunkline.secretMounts" (dict "secrets" (include "trunkline.clientSecrets" $root | fromYaml)) | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $.mounts }}
      {{- . | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- with include "trunkline.secretVolumes" (dict "secrets" (include "trunkline.clientSecrets" $root | fromYaml)) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $.volumes }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
