{{- /* Names that every template needs. An environment's are those of pulumi/kinora_environment/place.py. */}}

{{- define "namespace" -}}
kinora-{{ .root.Values.environment }}-{{ .role }}
{{- end }}

{{- define "host" -}}
{{ .name }}.{{ include "namespace" (dict "root" .root "role" "apps") }}.svc.cluster.local
{{- end }}

{{- /* Of an object in the namespace of a role. The revision is the environment's: only its istiod checks and obeys it. */}}
{{- define "metadata" -}}
name: {{ .name }}
namespace: {{ include "namespace" . }}
labels:
  app.kubernetes.io/name: {{ .name }}
  app.kubernetes.io/part-of: kinora
  kinora.io/environment: {{ .root.Values.environment }}
  istio.io/rev: kinora-{{ .root.Values.environment }}
{{- end }}
