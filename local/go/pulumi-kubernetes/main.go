// Pulumi's Kubernetes provider. Upstream's main embeds files that only its release process generates; this one embeds the
// schema that they are generated from, which local/tools.mk copies here from the module.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version"
)

//go:embed schema.json
var schema []byte

func main() {
	provider.Serve("kubernetes", version.Version, schema, nil) // nil: only needed for conversion from Terraform
}
