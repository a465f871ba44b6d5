// Says what Argo CD makes of resources, by its own libraries. JSON on standard input, a line of JSON for each value on
// standard output, in their order.
//
//	argocd health SCRIPT   resources → {"status": …, "message": …}: the script of that file in Argo CD's Lua machine
//	argocd diff            {"git": …, "live": …} → {"modified": …}: whether Argo CD would call it OutOfSync
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The key of a health script in the ConfigMap argocd-cm, without its prefix; Argo CD finds scripts by it.
const kind = "eventexport.io/EventExport"

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type pair struct {
	Git  unstructured.Unstructured `json:"git"`
	Live unstructured.Unstructured `json:"live"`
}

type difference struct {
	Modified  bool            `json:"modified"`
	Live      json.RawMessage `json:"live"`
	Predicted json.RawMessage `json:"predicted"`
}

// each decodes values until the end of the input and writes the answer to each.
func each[V any](answer func(*V) (any, error)) error {
	values, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var value V
		if err := values.Decode(&value); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		said, err := answer(&value)
		if err != nil {
			return err
		}
		if err := answers.Encode(said); err != nil {
			return err
		}
	}
}

func health(file string) error {
	script, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	overrides := lua.ResourceHealthOverrides{}
	override := overrides[kind]
	override.HealthLua = string(script)
	overrides[kind] = override
	return each(func(resource *unstructured.Unstructured) (any, error) {
		result, err := overrides.GetResourceHealth(resource)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.GetName(), err)
		}
		if result == nil {
			return nil, fmt.Errorf("%s: no health script is for %s", resource.GetName(), resource.GroupVersionKind())
		}
		return verdict{string(result.Status), result.Message}, nil
	})
}

func compare() error {
	return each(func(both *pair) (any, error) {
		result, err := diff.Diff(&both.Git, &both.Live)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", both.Git.GetName(), err)
		}
		return difference{result.Modified, result.NormalizedLive, result.PredictedLive}, nil
	})
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "health":
		return health(args[1])
	case len(args) == 1 && args[0] == "diff":
		return compare()
	default:
		return errors.New("usage: argocd health SCRIPT | argocd diff")
	}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "argocd:", err)
		os.Exit(1)
	}
}
