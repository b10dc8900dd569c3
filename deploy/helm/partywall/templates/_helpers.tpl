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

{{/* "16MiB" or "16Mi" in KiB. */}}
{{- define "partywall.kib" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- if contains "Gi" . }}{{ mul $number 1048576 }}{{ else if contains "Mi" . }}{{ mul $number 1024 }}{{ else if contains "Ki" . }}{{ $number }}{{ else }}{{ div $number 1024 }}{{ end }}
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
{{- with .Values.agent.spool }}
{{- if and .enabled (not .hostPath) (gt (include "partywall.kib" .bytes | int64) (include "partywall.kib" .sizeLimit | int64)) }}
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
{{- range $index, $cluster := .Values.aggregator.clusters }}
{{- if eq $cluster.name $.Values.cluster.name }}
{{- fail (printf "aggregator.clusters[%d].name %q is cluster.name too: every cluster needs a name of its own" $index $cluster.name) }}
{{- end }}
{{- end }}
{{- end }}
