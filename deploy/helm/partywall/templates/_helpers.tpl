{{- define "partywall.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: the longest suffix that is put behind it has 20, and a label value may have 63. */}}
{{- define "partywall.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "partywall.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "partywall.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "partywall.agent" -}}{{ include "partywall.fullname" . }}-agent{{- end }}
{{- define "partywall.aggregator" -}}{{ include "partywall.fullname" . }}-aggregator{{- end }}
{{/* The Service of its metrics, apart from reports. */}}
{{- define "partywall.metrics" -}}{{ include "partywall.aggregator" . }}-metrics{{- end }}

{{/* ServiceAccounts of both sides, whoever makes them. */}}
{{- define "partywall.agentAccount" -}}{{ .Values.agent.serviceAccount.name | default (include "partywall.agent" .) }}{{- end }}
{{- define "partywall.aggregatorAccount" -}}{{ .Values.aggregator.serviceAccount.name | default (include "partywall.aggregator" .) }}{{- end }}

{{/* What never changes over a release's life. Argument: (dict "root" $ "component" …) */}}
{{- define "partywall.selector" -}}
app.kubernetes.io/name: {{ include "partywall.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "partywall.labels" -}}
{{ include "partywall.selector" . }}
app.kubernetes.io/part-of: partywall
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "partywall.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "partywall.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "partywall.tls" -}}{{ if ne .Values.tls.mode "insecure" }}yes{{ end }}{{- end }}
{{- define "partywall.tokens" -}}{{ if and .Values.agentTokens.enabled (include "partywall.tls" .) }}yes{{ end }}{{- end }}

{{/* Secrets of both sides, whoever makes them. */}}
{{- define "partywall.aggregatorSecret" -}}
{{- if eq .Values.tls.mode "provided" }}{{ .Values.tls.provided.aggregatorSecret }}{{ else }}{{ include "partywall.aggregator" . }}-tls{{ end }}
{{- end }}
{{- define "partywall.agentSecret" -}}
{{- if eq .Values.tls.mode "provided" }}{{ .Values.tls.provided.agentSecret }}{{ else }}{{ include "partywall.agent" . }}-tls{{ end }}
{{- end }}

{{/* Names in the aggregator's certificate, as a JSON list. localhost: `kubectl port-forward`, and the cli in the pod itself. */}}
{{- define "partywall.names" -}}
{{- $name := include "partywall.aggregator" . -}}
{{- $namespace := .Release.Namespace -}}
{{- concat (list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) "localhost") .Values.tls.extraNames | toJson -}}
{{- end }}

{{/* cert-manager and Helm want names and addresses apart. An address: digits and dots alone, or with a colon. */}}
{{- define "partywall.isAddress" -}}{{ if or (contains ":" .) (regexMatch "^[0-9.]+$" .) }}yes{{ end }}{{- end }}

{{- define "partywall.aggregatorUrl" -}}
{{- if .Values.agent.aggregatorUrl -}}
{{- .Values.agent.aggregatorUrl -}}
{{- else -}}
{{- ternary "https" "http" (eq (include "partywall.tls" .) "yes") }}://{{ include "partywall.aggregator" . }}.{{ .Release.Namespace }}.svc:7441
{{- end }}
{{- end }}

{{/* Host of a URL: no port, no brackets around an address, as a certificate has it. */}}
{{- define "partywall.host" -}}
{{- regexReplaceAll ":[0-9]+/?$" (regexReplaceAll "^https?://" . "") "" | trimPrefix "[" | trimSuffix "]" | lower -}}
{{- end }}

{{/* "16MiB", "16Mi", "0.5Gi", "500M" or a number of bytes, in KiB. */}}
{{- define "partywall.kib" -}}
{{- $text := . -}}
{{- if not (kindIs "string" .) }}{{ $text = printf "%d" (int64 .) }}{{ end -}}
{{- $units := dict "m" 0.0000009765625 "" 0.0009765625 "k" 0.9765625 "M" 976.5625 "G" 976562.5 "T" 976562500.0 "Ki" 1.0 "Mi" 1024.0 "Gi" 1048576.0 "Ti" 1073741824.0 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text | trimSuffix "B")) | int64 -}}
{{- end }}

{{/* "1s" in milliseconds. */}}
{{- define "partywall.ms" -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get (dict "ms" 1.0 "s" 1000.0 "m" 60000.0) (regexFind "[a-z]+$" .)) -}}
{{- end }}

{{- define "partywall.dnsEgress" -}}
# Cluster DNS may be a pod, or node-local on an address of the node: only its ports can be said.
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . | int64 }}}
    - {protocol: TCP, port: {{ . | int64 }}}
    {{- end }}
{{- end }}

{{/* What both daemons have in common. */}}
{{- define "partywall.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
{{- end }}

{{/* Refuses values that each are well-formed and together mean nothing. */}}
{{- define "partywall.check" -}}
{{- if and (not .Values.agent.enabled) (not .Values.aggregator.enabled) }}
{{- fail "agent.enabled and aggregator.enabled are both false: nothing is left to install" }}
{{- end }}
{{- if and .Values.agent.enabled (not .Values.aggregator.enabled) (not .Values.agent.aggregatorUrl) }}
{{- fail "agent.aggregatorUrl is empty, and aggregator.enabled is false: agents need somewhere to report to" }}
{{- end }}
{{- $plain := hasPrefix "http://" .Values.agent.aggregatorUrl }}
{{- if and .Values.agent.aggregatorUrl (ne $plain (eq .Values.tls.mode "insecure")) }}
{{- fail (printf "agent.aggregatorUrl %q: http:// goes with tls.mode insecure alone, https:// with every other" .Values.agent.aggregatorUrl) }}
{{- end }}
{{- if and (eq .Values.tls.mode "generated") (not .Values.aggregator.enabled) }}
{{- fail "tls.mode generated makes an authority of this release's own, which an aggregator elsewhere does not know: use provided or certManager where aggregator.enabled is false" }}
{{- end }}
{{- if and .Values.agent.enabled .Values.agent.aggregatorUrl .Values.aggregator.enabled (has .Values.tls.mode (list "generated" "certManager")) }}
{{- $host := include "partywall.host" .Values.agent.aggregatorUrl }}
{{- $names := include "partywall.names" . | lower | fromJsonArray }}
{{- $wildcard := ternary $host (regexReplaceAll "^[^.]+" $host "*") (eq (include "partywall.isAddress" $host) "yes") }}
{{- if not (or (has $host $names) (has $wildcard $names)) }}
{{- fail (printf "agent.aggregatorUrl %q: %s is not among tls.extraNames %s: the aggregator's certificate would not have it, and agents would refuse it" .Values.agent.aggregatorUrl $host (toJson .Values.tls.extraNames)) }}
{{- end }}
{{- end }}
{{- range $side := list "agent" "aggregator" }}
{{- $own := include "partywall.labels" (dict "root" $ "component" $side) | fromYaml }}
{{- range $key, $value := (index $.Values $side).podLabels }}
{{- if hasKey $own $key }}
{{- fail (printf "%s.podLabels %q: the chart sets this label itself" $side $key) }}
{{- end }}
{{- end }}
{{- with (index $.Values $side).serviceAccount }}
{{- if and (not .create) (not .name) }}
{{- fail (printf "%s.serviceAccount.name is empty, and %s.serviceAccount.create is false: which account is it?" $side $side) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq (include "partywall.agentAccount" .) (include "partywall.aggregatorAccount" .) }}
{{- fail (printf "agent.serviceAccount.name and aggregator.serviceAccount.name are both %q: agents must not have the aggregator's rights" (include "partywall.agentAccount" .)) }}
{{- end }}
{{- $interval := include "partywall.ms" .Values.agent.interval | float64 }}
{{- if or (lt $interval 100.0) (gt $interval 60000.0) }}
{{- fail (printf "agent.interval %s: must be between 100ms and 60s" .Values.agent.interval) }}
{{- end }}
{{- $queue := include "partywall.kib" .Values.agent.queueBytes | int64 }}
{{- if or (lt $queue 64) (gt $queue 1048576) }}
{{- fail (printf "agent.queueBytes %s: must be between 64KiB and 1GiB" .Values.agent.queueBytes) }}
{{- end }}
{{- $memory := dig "limits" "memory" "" .Values.agent.resources }}
{{- if and $memory (ge $queue (include "partywall.kib" $memory | int64)) }}
{{- fail (printf "agent.queueBytes %s is not less than agent.resources.limits.memory %v: the agent would be killed while the aggregator is away" .Values.agent.queueBytes $memory) }}
{{- end }}
{{- with .Values.agent.spool }}
{{- $bytes := include "partywall.kib" .bytes | int64 }}
{{- if and .enabled (or (lt $bytes 32768) (gt $bytes 67108864)) }}
{{- fail (printf "agent.spool.bytes %s: must be between 32MiB and 64GiB" .bytes) }}
{{- end }}
{{- if and .enabled (not .hostPath) (gt $bytes (include "partywall.kib" .sizeLimit | int64)) }}
{{- fail (printf "agent.spool.sizeLimit %s is less than agent.spool.bytes %s: the kubelet would evict the agent" .sizeLimit .bytes) }}
{{- end }}
{{- end }}
{{- range .Values.aggregator.alertmanagers }}
{{- if and $.Values.aggregator.alertmanagerTokenSecret (hasPrefix "http://" .) }}
{{- fail (printf "aggregator.alertmanagers %q: with aggregator.alertmanagerTokenSecret it must be https, the token would be seen" .) }}
{{- end }}
{{- end }}
{{- range $index, $webhook := .Values.aggregator.webhooks }}
{{- if and $.Values.aggregator.webhookTokenSecret (hasPrefix "http://" ($webhook.url | default "")) }}
{{- fail (printf "aggregator.webhooks[%d].url %q: with aggregator.webhookTokenSecret it must be https, the token would be seen" $index $webhook.url) }}
{{- end }}
{{- end }}
{{- if and .Values.aggregator.enabled (eq .Values.cluster.name "default") (or .Values.aggregator.alertmanagers .Values.aggregator.webhooks) }}
{{- fail "cluster.name is still \"default\", and aggregator.alertmanagers or aggregator.webhooks is set: alerts of two clusters of one name are one alert to whoever is told. Give it a name that no other cluster has there" }}
{{- end }}
{{- $seen := dict }}
{{- range $index, $cluster := .Values.aggregator.clusters }}
{{- if hasKey $seen $cluster.name }}
{{- fail (printf "aggregator.clusters[%d].name %q is aggregator.clusters[%d].name too: every cluster needs a name of its own" $index $cluster.name (get $seen $cluster.name)) }}
{{- end }}
{{- $_ := set $seen $cluster.name $index }}
{{- if eq $cluster.name $.Values.cluster.name }}
{{- fail (printf "aggregator.clusters[%d].name %q is cluster.name too: every cluster needs a name of its own" $index $cluster.name) }}
{{- end }}
{{- end }}
{{- end }}
