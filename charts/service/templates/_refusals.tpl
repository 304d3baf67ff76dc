{{- /* Validation that the schema cannot express, or not with helpful messages. */}}
{{- define "refusals" -}}
{{- $at := printf "workloads.%s" .name }}
{{- $values := .root.Values }}
{{- $workload := .workload }}
{{- if not $values.app }}
{{- fail "app is missing: write `app: <name of its folder>` into apps/<app>/deploy/values.yaml" }}
{{- end }}
{{- if not $values.version }}
{{- fail (printf "version is missing: write `version: 0.1.0` into apps/%s/deploy/envs/<environment>/version.yaml" $values.app) }}
{{- end }}
{{- if not (and $values.environment.name $values.environment.publicUrl) }}
{{- fail "environment is incomplete: it requires at least {name, publicUrl}" }}
{{- end }}
{{- if not (include "ours" .) }}
{{- if not (regexMatch "(:[^/:]+|@sha256:[0-9a-f]{64})$" $workload.image) }}
{{- fail (printf "%s.image: %s has no version; add one after a colon" $at $workload.image) }}
{{- end }}
{{- if $workload.migrations }}
{{- fail (printf "%s.migrations: only our own images have them, not %s; remove `migrations`" $at $workload.image) }}
{{- end }}
{{- end }}
{{- if and $workload.migrations (not (has "postgres" $workload.secrets)) }}
{{- fail (printf "%s.migrations: they require the database; add postgres to its secrets" $at) }}
{{- end }}
{{- with $workload.autoscale }}
{{- if eq (hasKey . "cpu") (hasKey . "queues") }}
{{- fail (printf "%s.autoscale: write either cpu or queues" $at) }}
{{- end }}
{{- if ne (hasKey . "queues") (hasKey . "messages") }}
{{- fail (printf "%s.autoscale: messages and queues require each other; write both or neither" $at) }}
{{- end }}
{{- if and .queues (not (has "rabbitmq" $workload.secrets)) }}
{{- fail (printf "%s.autoscale: KEDA reads the queue length with its credentials; add rabbitmq to its secrets" $at) }}
{{- end }}
{{- if gt (int .min) (int .max) }}
{{- fail (printf "%s.autoscale: min is more than max" $at) }}
{{- end }}
{{- end }}
{{- $gateway := false }}
{{- range $workload.allowFrom }}
{{- if not (hasKey $workload.ports .port) }}
{{- fail (printf "%s.allowFrom: it has no port %s" $at .port) }}
{{- end }}
{{- if has $.name .from }}
{{- fail (printf "%s.allowFrom: it names itself; pods of one workload do not call each other" $at) }}
{{- end }}
{{- if and (eq .port "http") (has "gateway" .from) }}
{{- $gateway = true }}
{{- end }}
{{- end }}
{{- if and $workload.routes (not $gateway) }}
{{- fail (printf "%s.routes: the gateway may not call it; add {from: [gateway], port: http} to its allowFrom" $at) }}
{{- end }}
{{- end }}
