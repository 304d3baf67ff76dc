{{- /* Names for all templates. An environment's names are those of pulumi/kinora_environment/place.py.

Each takes a dict: root ($), name (of the workload), workload (its values, over the defaults). */}}

{{- define "namespace" -}}
kinora-{{ .root.Values.environment.name }}-{{ .role | default "apps" }}
{{- end }}

{{- /* The selector labels of a workload's pods: they are immutable. */}}
{{- define "selector" -}}
app.kubernetes.io/name: {{ .name }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/instance: {{ .root.Values.app }}
app.kubernetes.io/part-of: kinora
app.kubernetes.io/managed-by: argocd
kinora.io/environment: {{ .root.Values.environment.name }}
{{- end }}

{{- define "metadata" -}}
name: {{ .name }}
namespace: {{ include "namespace" . }}
labels:
  {{- include "labels" . | nindent 2 }}
{{- end }}

{{- /* Whether an image is one of ours, which reads the variables of kinora_kit/settings.py: "yes" or nothing. */}}
{{- define "ours" -}}
{{- if not (contains "/" (.workload.image | default .name)) }}yes{{ end }}
{{- end }}

{{- define "image" -}}
{{- $image := .workload.image | default .name -}}
{{- if include "ours" . -}}
{{ .root.Values.registry }}/kinora-{{ $image }}:{{ .root.Values.version }}
{{- else -}}
{{ $image }}
{{- end -}}
{{- end }}

{{- /* What controls its replicas: HorizontalPodAutoscaler, ScaledObject, or nothing. */}}
{{- define "autoscaler" -}}
{{- with .workload.autoscale }}
{{- if hasKey . "cpu" }}HorizontalPodAutoscaler{{ else if $.root.Values.environment.keda }}ScaledObject{{ end }}
{{- end }}
{{- end }}

{{- /* The Secrets that its variables come from. */}}
{{- define "secret" -}}
{{ .workload.identity | default .name }}-{{ .secret }}
{{- end }}

{{- /* Whether a ServiceMonitor configures its scraping, instead of annotations: "yes" or nothing. In the mesh the metrics
are behind its proxy, which reads the annotations. */}}
{{- define "monitored" -}}
{{- if and (eq .root.Values.environment.monitoring "operator") (not .root.Values.environment.mesh) }}yes{{ end }}
{{- end }}

{{- /* The pod spec's fields for the Pod Security profile `restricted`. */}}
{{- define "pod" -}}
automountServiceAccountToken: false
# Variables such as AUTH_PORT for each Service are unused.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .workload.user }}
  runAsGroup: {{ .workload.user }}
  fsGroup: {{ .workload.user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "container-security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
