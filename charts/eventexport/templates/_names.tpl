{{/* Shared names and labels. */}}

{{- define "eventexport.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters: suffixes are appended, and label values are limited to 63. */}}
{{- define "eventexport.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "eventexport.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "eventexport.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "eventexport.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "eventexport.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "eventexport.leaseName" -}}
{{- if .Values.leaderElection.leaseName -}}
{{- .Values.leaderElection.leaseName -}}
{{- else if or .Values.scope.selector (gt (len (default list .Values.scope.namespaces)) 1) -}}
{{- include "eventexport.fullname" . -}}
{{- else if .Values.scope.namespaces -}}
{{- printf "eventexport-operator-%s" (first .Values.scope.namespaces) -}}
{{- else -}}
eventexport-operator
{{- end -}}
{{- end -}}

{{- define "eventexport.image" -}}
{{- $image := .Values.image -}}
{{- if not $image.repository -}}
{{- fail "image.repository: required, such as registry.example.com/audit/eventexport; there is no public image" -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Labels that are constant for a release, because selectors are immutable. */}}
{{- define "eventexport.selector" -}}
app.kubernetes.io/name: {{ include "eventexport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of the Pod of `helm test`, which the Deployment and the Service do not select. */}}
{{- define "eventexport.testSelector" -}}
app.kubernetes.io/name: {{ include "eventexport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{/* Labels of a resource; takes (dict "root" $ "labels" …) with additional labels. */}}
{{- define "eventexport.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.root.Chart.AppVersion | trunc 63)
  "app.kubernetes.io/part-of" "eventexport"
  "app.kubernetes.io/managed-by" .root.Release.Service
-}}
{{- $selector := include "eventexport.selector" .root | fromYaml -}}
{{- toYaml (mergeOverwrite (dict) .root.Values.commonLabels (default (dict) .labels) $labels $selector) -}}
{{- end -}}

{{/*
Labels of Pods. Without the chart's version: an update of only the chart must not restart Pods.
*/}}
{{- define "eventexport.podLabels" -}}
{{- $labels := include "eventexport.labels" (dict "root" . "labels" .Values.podLabels) | fromYaml -}}
{{- toYaml (omit $labels "helm.sh/chart" "app.kubernetes.io/managed-by") -}}
{{- end -}}

{{/* Labels and annotations of a resource; takes (dict "root" $ "labels" … "annotations" …). */}}
{{- define "eventexport.metadata" -}}
labels:
  {{- include "eventexport.labels" . | nindent 2 }}
{{- with mergeOverwrite (dict) .root.Values.commonAnnotations (default (dict) .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "true" if the operator watches the metadata of Secrets and ConfigMaps: it may list all of both. */}}
{{- define "eventexport.watchesSecrets" -}}
{{- with .Values.rbac }}{{ and .watchSecrets (not .secretNames) (not .configMapNames) }}{{ end -}}
{{- end }}
