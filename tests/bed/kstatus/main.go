// Says what kstatus makes of resources: JSON objects on standard input, a line of JSON for each on standard output,
// {"status": …, "message": …}, in their order.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func judge(input io.Reader, output io.Writer) error {
	resources, verdicts := json.NewDecoder(input), json.NewEncoder(output)
	for {
		// Decoded by the type itself: it keeps whole numbers whole, and kstatus compares generations as such.
		var resource unstructured.Unstructured
		if err := resources.Decode(&resource); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("not a resource: %w", err)
		}
		result, err := status.Compute(&resource)
		if err != nil {
			return fmt.Errorf("%s: %w", resource.GetName(), err)
		}
		if err := verdicts.Encode(verdict{result.Status.String(), result.Message}); err != nil {
			return err
		}
	}
}

func main() {
	if err := judge(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}
