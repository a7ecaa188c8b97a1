{{- /* Values that are each right by themselves and cannot work together: all of them at once, by their keys. */ -}}
{{- define "trunkline.check" -}}
{{- $found := list -}}
{{- $kafka := .Values.settings.kafka -}}
{{- $state := .Values.settings.state | default dict -}}
{{- $protocol := $kafka.security_protocol | default "PLAINTEXT" -}}
{{- $secrets := .Values.secrets -}}
{{- $model := .Values.model -}}
{{- $scaling := .Values.autoscaling -}}
{{- $monitoring := .Values.monitoring -}}
{{- $sasl := hasPrefix "SASL" $protocol -}}
{{- $tls := hasSuffix "SSL" $protocol -}}

{{- if and $secrets.kafkaSasl.name (not $sasl) }}
{{- $found = append $found (printf "secrets.kafkaSasl.name: is given, but settings.kafka.security_protocol is %s, without SASL" $protocol) }}
{{- end }}
{{- if and $secrets.kafkaSasl.name (not $secrets.kafkaSasl.usernameKey) (not $kafka.sasl_username) }}
{{- $found = append $found "secrets.kafkaSasl.usernameKey: or settings.kafka.sasl_username is needed to say who the worker is" }}
{{- end }}
{{- if and $secrets.kafkaSasl.usernameKey $kafka.sasl_username }}
{{- $found = append $found "secrets.kafkaSasl.usernameKey: is given beside settings.kafka.sasl_username: which of them?" }}
{{- end }}
{{- if and $secrets.kafkaTls.name (not $tls) }}
{{- $found = append $found (printf "secrets.kafkaTls.name: is given, but settings.kafka.security_protocol is %s, without TLS" $protocol) }}
{{- end }}
{{- range $name, $secret := pick $secrets "kafkaTls" "clientTls" "redisTls" }}
{{- if ne (empty $secret.certKey) (empty $secret.keyKey) }}
{{- $found = append $found (printf "secrets.%s.certKey: a client certificate needs both certKey and keyKey" $name) }}
{{- end }}
{{- end }}
{{- if and (or $secrets.redis.name $secrets.redisTls.name) (ne ($state.store | default "device") "redis") }}
{{- $found = append $found "secrets.redis.name, secrets.redisTls.name: are given, but settings.state.store is not redis" }}
{{- end }}
{{- if and $secrets.redisTls.name (not (hasPrefix "rediss://" ($state.redis_url | default ""))) }}
{{- $found = append $found "secrets.redisTls.name: is given, but settings.state.redis_url does not begin with rediss://" }}
{{- end }}

{{- if and (eq $model.from "image") (not $model.image.reference) }}
{{- $found = append $found "model.image.reference: is needed with model.from: image" }}
{{- end }}
{{- if and (eq $model.from "persistentVolumeClaim") (not $model.persistentVolumeClaim.name) }}
{{- $found = append $found "model.persistentVolumeClaim.name: is needed with model.from: persistentVolumeClaim" }}
{{- end }}
{{- if and (eq $model.from "initContainer") (not $model.initContainer.image) }}
{{- $found = append $found "model.initContainer.image: is needed with model.from: initContainer" }}
{{- end }}
{{- if and (eq $model.from "path") (not $model.path) }}
{{- $found = append $found "model.path: is needed with model.from: path" }}
{{- end }}

{{- $replicas := ternary 0 .Values.replicas $scaling.enabled }}
{{- if gt (int $replicas) (int .Values.topics.partitions) }}
{{- $found = append $found (printf "replicas: %d workers, but topics.partitions is %d; those beyond would stand idle" (int $replicas) (int .Values.topics.partitions)) }}
{{- end }}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int (include "trunkline.maxReplicas" .))) }}
{{- $found = append $found (printf "autoscaling.minReplicas: is %d, more than %s, the smaller of autoscaling.maxReplicas and topics.partitions" (int $scaling.minReplicas) (include "trunkline.maxReplicas" .)) }}
{{- end }}
{{- if and $monitoring.serviceMonitor.enabled $monitoring.podMonitor.enabled }}
{{- $found = append $found "monitoring.podMonitor.enabled: beside monitoring.serviceMonitor.enabled every worker would be scraped twice" }}
{{- end }}
{{- if and $kafka.instance_id (or $scaling.enabled (gt (int .Values.replicas) 1)) }}
{{- $found = append $found "settings.kafka.instance_id: one name for several workers; they would throw each other out of the group" }}
{{- end }}
{{- if $found }}
{{- fail (printf "\n\nthese values cannot work:\n  - %s\n" (join "\n  - " $found)) }}
{{- end }}
{{- end -}}
