{{- /* Names for all templates. An environment's names are those of pulumi/kinora_environment/place.py. */}}

{{- define "namespace" -}}
kinora-{{ .root.Values.environment }}-{{ .role }}
{{- end }}

{{- define "host" -}}
{{ .name }}.{{ include "namespace" (dict "root" .root "role" "apps") }}.svc.cluster.local
{{- end }}

{{- /* Metadata of an object in a role's namespace. The revision selects the environment's own istiod. */}}
{{- define "metadata" -}}
name: {{ .name }}
namespace: {{ include "namespace" . }}
labels:
  app.kubernetes.io/name: {{ .name }}
  app.kubernetes.io/part-of: kinora
  kinora.io/environment: {{ .root.Values.environment }}
  istio.io/rev: kinora-{{ .root.Values.environment }}
{{- end }}
