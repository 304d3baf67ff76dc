{{- define "namespace" -}}
kinora-{{ .Values.environment.name }}-apps
{{- end }}

{{- define "labels" -}}
app.kubernetes.io/name: gateway
app.kubernetes.io/part-of: kinora
app.kubernetes.io/managed-by: argocd
kinora.io/environment: {{ .Values.environment.name }}
{{- end }}

{{- /* A text of traefik/dynamic, with the services' addresses in the cluster: root ($), text. */}}
{{- define "in-cluster" -}}
{{- $text := .text }}
{{- range $name, $service := .root.Values.http.services }}
{{- range $service.loadBalancer.servers }}
{{- $here := printf "http://%s.%s.svc.cluster.local:%s" $name (include "namespace" $.root) (regexFind "[0-9]+$" .url) }}
{{- $text = $text | replace .url $here }}
{{- end }}
{{- end }}
{{- /* Traefik's own entry point for ForwardAuth is in the same pod. */}}
{{- if contains "127.0.0.1" ($text | replace "http://127.0.0.1:8082/" "") }}
{{- fail (printf "traefik/dynamic: no service in services.yml has this address: %s" (regexFind "http://127.0.0.1[^\"' \n]*" $text)) }}
{{- end }}
{{- $text }}
{{- end }}
