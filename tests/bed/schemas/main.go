// Writes JSON schemas for kubeconform: of Kubernetes' own kinds from its OpenAPI document, and of others from their
// CustomResourceDefinitions. Unknown fields are refused. Usage: schemas OUT FILE…
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

const reference = "#/definitions/"

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: %s OUT FILE…, where a FILE is an OpenAPI document or a definition", os.Args[0]))
	}
	out := os.Args[1]
	for _, path := range os.Args[2:] {
		content := read(path)
		if definitions, is := content["definitions"].(object); is {
			kubernetes(out, definitions)
		} else {
			definition(out, content)
		}
	}
}

// kubernetes writes a file per kind, with the definitions that it refers to.
func kubernetes(out string, definitions object) {
	// Both are said to be strings, and may be numbers.
	either := object{"oneOf": []any{object{"type": "string"}, object{"type": "number"}}}
	definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = either
	definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = either
	for _, one := range definitions {
		strict(one)
	}
	for name, one := range definitions {
		kinds, _ := one.(object)["x-kubernetes-group-version-kind"].([]any)
		// Types such as DeleteOptions are of every group.
		if len(kinds) != 1 {
			continue
		}
		kind := kinds[0].(object)
		reached := object{}
		reach(object{"$ref": reference + name}, definitions, reached)
		schema := object{"$ref": reference + name, "definitions": reached}
		write(out, text(kind["group"]), text(kind["kind"]), text(kind["version"]), schema)
	}
}

// definition writes a file per version of a CustomResourceDefinition.
func definition(out string, crd object) {
	spec := crd["spec"].(object)
	for _, version := range spec["versions"].([]any) {
		version := version.(object)
		schema := version["schema"].(object)["openAPIV3Schema"].(object)
		properties := schema["properties"].(object)
		strict(schema)
		properties["apiVersion"] = object{"type": "string"}
		properties["kind"] = object{"type": "string"}
		properties["metadata"] = object{"type": "object"}
		kind := spec["names"].(object)["kind"]
		write(out, text(spec["group"]), text(kind), text(version["name"]), schema)
	}
}

// strict closes every object that lists its properties.
func strict(node any) {
	switch node := node.(type) {
	case object:
		_, lists := node["properties"].(object)
		_, open := node["additionalProperties"]
		if keep, _ := node["x-kubernetes-preserve-unknown-fields"].(bool); lists && !open && !keep {
			node["additionalProperties"] = false
		}
		for _, child := range node {
			strict(child)
		}
	case []any:
		for _, child := range node {
			strict(child)
		}
	}
}

// reach gathers the definitions that a schema refers to, and those that they refer to.
func reach(node any, definitions, reached object) {
	switch node := node.(type) {
	case object:
		if to, ok := node["$ref"].(string); ok {
			name := strings.TrimPrefix(to, reference)
			if _, known := reached[name]; !known {
				reached[name] = definitions[name]
				reach(definitions[name], definitions, reached)
			}
		}
		for _, child := range node {
			reach(child, definitions, reached)
		}
	case []any:
		for _, child := range node {
			reach(child, definitions, reached)
		}
	}
}

func write(out, group, kind, version string, schema object) {
	// As kubeconform names them: of the core group, {{.Group}} is the version.
	if group == "" {
		group = version
	}
	bytes, err := json.Marshal(schema)
	fail(err)
	folder := filepath.Join(out, group)
	fail(os.MkdirAll(folder, 0o755))
	fail(os.WriteFile(filepath.Join(folder, strings.ToLower(kind)+"_"+version+".json"), bytes, 0o644))
}

func read(path string) object {
	bytes, err := os.ReadFile(path)
	fail(err)
	var content object
	if err := yaml.Unmarshal(bytes, &content); err != nil {
		fail(fmt.Errorf("%s: %w", path, err))
	}
	return content
}

func text(value any) string {
	text, _ := value.(string)
	return text
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}
