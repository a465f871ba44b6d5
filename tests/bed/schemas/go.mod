// Schemas to judge manifests by: main.go makes them of Kubernetes' OpenAPI document and of definitions.
module eventexport.test/bed/schemas

go 1.26.0

require (
	// Only its definitions are used (example/prometheus-operator-crd), so `go mod tidy` would take it away.
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/yaml v1.6.0
)

require go.yaml.in/yaml/v2 v2.4.2 // indirect
