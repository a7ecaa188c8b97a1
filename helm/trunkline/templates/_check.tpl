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
{{- /* What extraEnv says, by name; extraEnvFrom may say anything. */ -}}
{{- $variables := dict -}}
{{- range .Values.extraEnv }}
{{- $_ := set $variables (upper .name) . }}
{{- end -}}
{{- $unknown := not (empty .Values.extraEnvFrom) -}}

{{- if and $sasl (not (or $secrets.kafkaSasl.name $kafka.sasl_password_file $unknown (hasKey $variables "TRUNKLINE_KAFKA__SASL_PASSWORD") (hasKey $variables "TRUNKLINE_KAFKA__SASL_PASSWORD_FILE"))) }}
{{- $found = append $found (printf "secrets.kafkaSasl.name: is needed with settings.kafka.security_protocol: %s" $protocol) }}
{{- end }}
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
{{- if and $secrets.clientSasl.name (not $sasl) }}
{{- $found = append $found (printf "secrets.clientSasl.name: is given, but settings.kafka.security_protocol is %s, without SASL" $protocol) }}
{{- end }}
{{- if and $secrets.clientSasl.name (not $secrets.clientSasl.usernameKey) }}
{{- $found = append $found "secrets.clientSasl.usernameKey: is needed to say who the topics' job and the test are" }}
{{- end }}
{{- if and .Values.topics.create $sasl (not (or $secrets.clientSasl.name $secrets.kafkaSasl.name)) }}
{{- $found = append $found "secrets.clientSasl.name: or secrets.kafkaSasl.name is needed with topics.create: a password from elsewhere reaches the workers only" }}
{{- end }}
{{- if and .Values.topics.create $tls (not (or $secrets.clientTls.name $secrets.kafkaTls.name)) }}
{{- range list "ssl_ca_file" "ssl_cert_file" }}
{{- if or (get $kafka .) (hasKey $variables (printf "TRUNKLINE_KAFKA__%s" (upper .))) }}
{{- $found = append $found (printf "secrets.clientTls.name: is needed with topics.create: settings.kafka.%s reaches the workers only" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $secrets.clientTls.name (not $tls) }}
{{- $found = append $found (printf "secrets.clientTls.name: is given, but settings.kafka.security_protocol is %s, without TLS" $protocol) }}
{{- end }}
{{- $topics := dict }}
{{- range $topic, $default := dict "audio_topic" "audio.chunks" "final_topic" "transcripts.final" "partial_topic" "transcripts.partial" "rejected_topic" "audio.rejected" "streams_topic" "trunkline.streams" }}
{{- $named := get $kafka $topic | default $default }}
{{- $_ := set $topics $named (append (get $topics $named | default list) $topic) }}
{{- end }}
{{- range $named, $same := $topics }}
{{- range ternary $same list (gt (len $same) 1) }}
{{- $found = append $found (printf "settings.kafka.%s: %s is the name of another topic, too" . $named) }}
{{- end }}
{{- end }}
{{- range $name, $secret := pick $secrets "kafkaTls" "clientTls" "redisTls" }}
{{- if ne (empty $secret.certKey) (empty $secret.keyKey) }}
{{- $found = append $found (printf "secrets.%s.certKey: a client certificate needs both certKey and keyKey" $name) }}
{{- end }}
{{- end }}
{{- if and (or $secrets.redis.name $secrets.redisTls.name) (ne ($state.store | default "device") "redis") }}
{{- $found = append $found "secrets.redis.name, secrets.redisTls.name: are given, but settings.state.store is not redis" }}
{{- end }}
{{- if eq ($state.store | default "device") "redis" }}
{{- if not (or $state.redis_url $unknown) }}
{{- $found = append $found "settings.state.redis_url: is needed with settings.state.store: redis" }}
{{- end }}
{{- if and $state.redis_username (not (or $secrets.redis.name $state.redis_password_file $unknown (hasKey $variables "TRUNKLINE_STATE__REDIS_PASSWORD") (hasKey $variables "TRUNKLINE_STATE__REDIS_PASSWORD_FILE"))) }}
{{- $found = append $found "secrets.redis.name: is needed with settings.state.redis_username, for its password" }}
{{- end }}
{{- end }}
{{- if and $secrets.redis.usernameKey $state.redis_username }}
{{- $found = append $found "secrets.redis.usernameKey: is given beside settings.state.redis_username: which of them?" }}
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

{{- if and (hasPrefix "cuda" ((.Values.settings.model | default dict).device | default "")) (eq (int .Values.gpu.count) 0) }}
{{- $found = append $found "gpu.count: is 0, but settings.model.device is a GPU" }}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (has (toString .Values.podDisruptionBudget.maxUnavailable) (list "0" "0%")) }}
{{- $found = append $found "podDisruptionBudget.maxUnavailable: with none no node could ever be drained" }}
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
{{- if and .Values.networkPolicy.enabled (eq ((.Values.settings.telemetry | default dict).traces | default "off") "otlp") (not .Values.networkPolicy.extraEgress) }}
{{- $found = append $found "networkPolicy.extraEgress: must open the collector's port, since settings.telemetry.traces is otlp" }}
{{- end }}
{{- $found = concat $found (include "trunkline.checkExtra" . | fromJsonArray) }}
{{- if $found }}
{{- fail (printf "\n\nthese values cannot work:\n  - %s\n" (join "\n  - " $found)) }}
{{- end }}
{{- end -}}

{{- /* What extraEnv, extraArgs and extraVolumes would take out of the chart's hands: a list in JSON. */ -}}
{{- define "trunkline.checkExtra" -}}
{{- $found := list -}}
{{- $variables := list "TRUNKLINE_CONFIG" "HOME" -}}
{{- if and (eq .Values.model.from "huggingFace") .Values.model.huggingFace.cache.enabled }}
{{- $variables = append $variables "HF_HOME" }}
{{- end }}
{{- range include "trunkline.secretEnv" . | fromYamlArray }}
{{- $variables = append $variables .name }}
{{- end }}
{{- $flags := list "--config" -}}
{{- range list "telemetry.host" "telemetry.port" "model.source" }}
{{- $variables = append $variables (printf "TRUNKLINE_%s" (upper . | replace "." "__")) }}
{{- $flags = append $flags (printf "--%s" .) }}
{{- end }}
{{- /* What the job, the test, the policies, the notes and these checks follow, by its name as variable and as flag. */ -}}
{{- $shared := dict }}
{{- range list "kafka.bootstrap_servers" "kafka.audio_topic" "kafka.final_topic" "kafka.partial_topic" "kafka.rejected_topic" "kafka.streams_topic" "kafka.security_protocol" "kafka.sasl_mechanism" "kafka.sasl_username" "state.store" "state.redis_url" "model.device" "telemetry.traces" "drain_timeout_s" }}
{{- $_ := set $shared (printf "TRUNKLINE_%s" (upper . | replace "." "__")) . }}
{{- $_ := set $shared (printf "--%s" .) . }}
{{- end }}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}
{{- $own := "valueFrom with fieldRef metadata.name gives each its own" }}
{{- range .Values.extraEnv }}
{{- if has (upper .name) $variables }}
{{- $found = append $found (printf "extraEnv: %s is set by the chart, from model, secrets or settings" .name) }}
{{- else if hasKey $shared (upper .name) }}
{{- $found = append $found (printf "extraEnv: %s reaches the workers only; settings.%s tells the whole chart" .name (get $shared (upper .name))) }}
{{- end }}
{{- if and $several .value (eq (upper .name) "TRUNKLINE_KAFKA__INSTANCE_ID") (not (contains "$(" .value)) }}
{{- $found = append $found (printf "extraEnv: %s is one name for several workers; %s" .name $own) }}
{{- end }}
{{- if and (hasSuffix "_PASSWORD" (upper .name)) .value }}
{{- $found = append $found (printf "extraEnv: %s stands here as text; valueFrom names a secret" .name) }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- $flag := splitList "=" . | first }}
{{- if has $flag $flags }}
{{- $found = append $found (printf "extraArgs: %s is set by the chart, from model or settings" $flag) }}
{{- else if hasKey $shared $flag }}
{{- $found = append $found (printf "extraArgs: %s reaches the workers only; settings.%s tells the whole chart" $flag (get $shared $flag)) }}
{{- else if and $several (eq $flag "--kafka.instance_id") }}
{{- $found = append $found (printf "extraArgs: %s is one name for several workers; in extraEnv %s" $flag $own) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "settings" "tmp" "model" "model-cache" "kafka-sasl" "kafka-tls" "redis" "redis-tls") }}
{{- $found = append $found (printf "extraVolumes: %s is the name of a volume of the chart" .name) }}
{{- end }}
{{- end }}
{{- toJson $found -}}
{{- end -}}
